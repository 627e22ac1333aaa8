// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds of images: `podman build` and Buildah, which look for slirp4netns in PATH.

use super::caller::eventually;
use super::host::{Host, with_each_helper};
use super::script::{EXCURSION, OUTSIDE, SURVEY, network};

/// Builds an image by this command. One step of it looks at its network.
fn assert_that_steps_have_a_network(host: &Host, build: &str) {
    let script = format!(
        "mkdir shared
        cat > shared/script <<'END'\n{SURVEY}\n{EXCURSION}\nEND
        echo 'FROM localhost/image' > shared/Containerfile
        echo 'RUN sh /shared/script > /shared/seen' >> shared/Containerfile
        {build} -v /usr:/usr:ro -v $PWD/shared:/shared shared >&2
        cat shared/seen"
    );
    let seen = host.by_user(&script);
    assert_eq!(seen.text(), network("10.0.2", 65_520) + OUTSIDE, "{seen:?}");
    eventually("no helper is left", || host.helpers() == 0);
}

#[test]
fn the_steps_of_podman_build_have_a_network() {
    with_each_helper(|host| assert_that_steps_have_a_network(host.with_image(), "podman build"));
}

#[test]
fn the_steps_of_buildah_have_a_network() {
    let build = "buildah bud --isolation=rootless";
    with_each_helper(|host| assert_that_steps_have_a_network(host.with_image(), build));
}
