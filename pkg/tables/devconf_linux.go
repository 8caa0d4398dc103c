package tables

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// devConf is where a per-device sysctl stands in the array that comes with every link. Reading the
// arrays instead of /proc/sys/net costs no file per device and value, and they agree in time with
// the rest of the link.
type devConf struct {
	name string
	at   int
}

// ipv4Conf is IPV4_DEVCONF_* of linux/ip.h; the kernel counts from 1, the array from 0.
var ipv4Conf = []devConf{
	{"forwarding", 0}, {"proxy_arp", 2}, {"rp_filter", 7}, {"log_martians", 10}, {"arp_filter", 12},
	{"disable_xfrm", 14}, {"disable_policy", 15}, {"arp_announce", 17}, {"arp_ignore", 18}, {"accept_local", 22},
	{"src_valid_mark", 23}, {"proxy_arp_pvlan", 24}, {"route_localnet", 25}, {"ignore_routes_with_linkdown", 28},
	{"drop_unicast_in_l2_multicast", 29}, {"bc_forwarding", 31},
}

// ipv6Conf is DEVCONF_* of linux/ipv6.h, which counts from 0.
var ipv6Conf = []devConf{
	{"forwarding", 0}, {"hop_limit", 1}, {"mtu", 2}, {"accept_ra", 3}, {"proxy_ndp", 22}, {"disable_ipv6", 26}, {"force_forwarding", 59},
}

// parseDevConf reads IFLA_AF_SPEC of a link: AF_INET with IFLA_INET_CONF, AF_INET6 with
// IFLA_INET6_CONF, arrays of 32-bit values.
func parseDevConf(dev string, afSpec []byte, conf map[string]string) {
	for family, v := range attrs(afSpec) {
		for t, array := range attrs(v) {
			switch {
			case family == unix.AF_INET && t == unix.IFLA_INET_CONF:
				putConf("ipv4.conf."+dev+".", ipv4Conf, array, conf)
			case family == unix.AF_INET6 && t == unix.IFLA_INET6_CONF:
				putConf("ipv6.conf."+dev+".", ipv6Conf, array, conf)
			}
		}
	}
}

func putConf(head string, names []devConf, array []byte, conf map[string]string) {
	for _, c := range names {
		if len(array) >= 4*(c.at+1) {
			conf[head+c.name] = strconv.Itoa(int(int32(u32(array[4*c.at:]))))
		}
	}
}
