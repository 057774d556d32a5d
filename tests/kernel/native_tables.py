"""Tables of nft as programs and people make them: in their usual form, cut to what decides on forwarding."""

FORWARD_DROPS = """
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
  }
}
"""
"""As in the examples of /etc/nftables.conf."""

FIREWALLD = """
table inet firewalld {
  chain mangle_PREROUTING {
    type filter hook prerouting priority mangle + 10; policy accept;
  }
  chain nat_PREROUTING {
    type nat hook prerouting priority dstnat + 10; policy accept;
  }
  chain filter_PREROUTING {
    type filter hook prerouting priority filter + 10; policy accept;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    %s
    iifname "lo" accept
    ip6 daddr { ::/96, 2002::/24 } reject with icmpv6 addr-unreachable
    jump filter_FORWARD_ZONES
    ct state invalid drop
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_ZONES {
    iifname "eth0" goto filter_IN_public
    goto filter_IN_public
  }
  chain filter_FORWARD_ZONES {
    iifname "eth0" goto filter_FWD_public
    goto filter_FWD_public
  }
  chain filter_FWD_public {
    jump filter_FWD_public_allow
    reject with icmpx admin-prohibited
  }
  chain filter_FWD_public_allow {
    oifname "eth9" accept
  }
  chain filter_IN_public {
    ip saddr 203.0.113.0/24 drop
    tcp dport { 22, 5300 } accept
    udp dport 5300 accept
    reject with icmpx admin-prohibited
  }
}
"""

LIBVIRT = """
table ip libvirt_network {
  chain forward {
    type filter hook forward priority filter; policy accept;
    counter jump guest_cross
    counter jump guest_input
    counter jump guest_output
  }
  chain guest_output {
    ip saddr 192.168.122.0/24 iif "lo" counter accept
    iifname "virbr0" counter reject
  }
  chain guest_input {
    oifname "virbr0" ip daddr 192.168.122.0/24 ct state established,related counter accept
    oifname "virbr0" counter reject
  }
  chain guest_cross {
    iifname "virbr0" oifname "virbr0" counter accept
  }
  chain guest_nat {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 counter masquerade
  }
}
"""

DOCKER = """
table ip docker-bridges {
  map filter-forward-in-jumps {
    type ifname : verdict
    elements = { "docker0" : jump filter-forward-in__docker0 }
  }
  map filter-forward-out-jumps {
    type ifname : verdict
    elements = { "docker0" : jump filter-forward-out__docker0 }
  }
  chain filter-FORWARD {
    type filter hook forward priority filter; policy accept;
    oifname vmap @filter-forward-in-jumps
    iifname vmap @filter-forward-out-jumps
  }
  chain filter-forward-in__docker0 {
    ct state established,related counter accept
    iifname "docker0" counter accept
    ip daddr 172.17.0.2 tcp dport 80 counter accept
    counter drop
  }
  chain filter-forward-out__docker0 {
    ct state established,related counter accept
    counter accept
  }
  chain raw-PREROUTING {
    type filter hook prerouting priority raw; policy accept;
    ip daddr 172.17.0.2 iifname != "docker0" counter drop
  }
  chain nat-PREROUTING {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local counter jump nat-prerouting-and-output
  }
  chain nat-prerouting-and-output {
    tcp dport 8080 counter dnat to 172.17.0.2:80
  }
}
"""

FAIL2BAN = """
table inet f2b-table {
  set addr-set-sshd {
    type ipv4_addr
    elements = { 203.0.113.7, 203.0.113.8 }
  }
  chain f2b-chain {
    type filter hook input priority filter - 1; policy accept;
    tcp dport { 22, 5300 } ip saddr @addr-set-sshd reject with icmp port-unreachable
  }
}
"""

USUAL = {
    "firewalld": FIREWALLD % "ct status dnat accept",
    "libvirt": LIBVIRT,
    "Docker": DOCKER,
    "fail2ban": FAIL2BAN,
}
"""None of these stands in the way of connections to backends on networks of their own."""
