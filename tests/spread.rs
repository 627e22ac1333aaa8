// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arithmetic behind the figures of the benches, which have no test harness of their own.

#[path = "../benches/peers/spread.rs"]
mod spread;

use spread::Spread;

#[test]
fn the_median_is_the_middle_value_or_the_mean_of_the_two_in_the_middle() {
    let cases: [(&[f64], f64); 6] = [
        (&[5.0], 5.0),
        (&[1.0, 2.0], 1.5),
        (&[3.0, 1.0, 2.0], 2.0),
        (&[4.0, 1.0, 100.0, 2.0], 3.0),
        (&[9.0, -1.0, 9.0, 0.0, 9.0], 9.0),
        (&[f64::MAX, f64::MAX], f64::MAX),
    ];
    for (values, median) in cases {
        assert_eq!(Spread::of(values.to_vec()).map(|spread| spread.median), Some(median), "{values:?}");
    }
}

#[test]
fn a_spread_reaches_from_the_least_to_the_most() {
    let spread = Spread::of(vec![4.0, 1.0, 100.0, 2.0]);
    assert_eq!(spread, Some(Spread { median: 3.0, least: 1.0, most: 100.0 }));
    assert_eq!(Spread::of(Vec::new()), None);
}
