#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# What dhclient, udhcpc and dhcpcd run when something happens to their lease: writes a line to `log` beside it, and
# configures the address for those that do not do so themselves.
event=${reason:-$1}
address=${new_ip_address:-$ip}
gateway=${new_routers:-$router}
{
    echo "$event $address router=$gateway dns=${new_domain_name_servers:-$dns}"
    echo "options search=${new_domain_search:-$search} mtu=${new_interface_mtu:-$mtu}"
} >>"$(dirname "$0")/log"
case $event in
BOUND | bound)
    ip addr replace "$address/24" dev eth0
    ip route replace default via "$gateway"
    ;;
esac
