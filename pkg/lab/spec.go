package lab

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The datapaths of which there is a lab.
const (
	FlannelVXLAN         = "flannel-vxlan"
	FlannelHostGW        = "flannel-host-gw"
	FlannelDirectRouting = "flannel-directrouting"
	FlannelUDP           = "flannel-udp"
	FlannelDual          = "flannel-dual"
	FlannelV6            = "flannel-v6"
	FlannelNAT           = "flannel-nat"
	CalicoVXLAN          = "calico-vxlan"
	CiliumENI            = "cilium-eni"
	K3s                  = "k3s"
	Kind                 = "kind"
)

// Datapath is one that Spec.Datapath can name.
type Datapath struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
}

// Datapaths lists them.
func Datapaths() []Datapath {
	return []Datapath{
		{FlannelVXLAN, "flannel, VXLAN between the nodes (the default)"},
		{FlannelHostGW, "flannel, no encapsulation: the next hop is the other node"},
		{FlannelDirectRouting, "flannel, VXLAN only to node3, which is behind a router"},
		{FlannelUDP, "flannel, a user-space proxy behind the TUN device flannel0"},
		{FlannelDual, "flannel, VXLAN, IPv4 and IPv6"},
		{FlannelV6, "flannel, VXLAN, IPv6 alone"},
		{FlannelNAT, "flannel, VXLAN between nodes behind NAT"},
		{CalicoVXLAN, "Calico, VXLAN, a routed veth for each pod"},
		{CiliumENI, "Cilium on AWS ENIs: tc programs, policy rules, a VPC router"},
		{K3s, "k3s: flannel, VXLAN, with services and k3s' network policies"},
		{Kind, "kind: nodes that are containers on a Docker network, a routed veth for each pod, services"},
	}
}

// Values of Spec.Services: who writes kube-proxy's rules.
const (
	ServicesIPTables       = "iptables"        // iptables-nft
	ServicesIPTablesLegacy = "iptables-legacy" // the other backend
	ServicesNFTables       = "nftables"
)

// surroundings are the values of Spec.With. docker0 is always there, as in document 000.
var surroundings = []string{"docker0", "k3s", "kind", "libvirt"}

// Spec says which lab Up builds. The zero value is the default lab, and the zero value of a field
// its default.
type Spec struct {
	Datapath string `json:"datapath,omitempty"` // one of Datapaths; "": FlannelVXLAN
	// Of the VXLAN device of a flannel datapath.
	VNI      int  `json:"vni,omitempty"`  // 1 to 9999999, with IPv6 to 9999; 0: 1
	Port     int  `json:"port,omitempty"` // UDP; 0: 8472
	GBP      bool `json:"gbp,omitempty"`
	Learning bool `json:"learning,omitempty"`
	MTU      int  `json:"mtu,omitempty"` // bytes; the uplinks get 50 more. 0: 1450

	Services string   `json:"services,omitempty"` // one of the Services constants; "": none but of K3s and Kind. Of flannel's datapaths and these
	With     []string `json:"with,omitempty"`     // other people's devices on the nodes: surroundings
	Nodes    int      `json:"nodes,omitempty"`    // 0: as many as the datapath needs
	Pods     int      `json:"pods,omitempty"`     // of all nodes together; 0: as many as the datapath needs
}

// Bounds of a larger lab: addresses are 10.1.11.(90+i) and x.x.x.(50+i).
const (
	maxNodes       = 100
	maxPodsPerNode = 150
)

func (s Spec) isZero() bool {
	return s.Datapath == "" && s.VNI == 0 && s.Port == 0 && !s.GBP && !s.Learning && s.MTU == 0 &&
		s.Services == "" && len(s.With) == 0 && s.Nodes == 0 && s.Pods == 0
}

// isVXLAN reports whether the datapath has flannel's VXLAN device.
func (s Spec) isVXLAN() bool {
	return slices.Contains([]string{FlannelVXLAN, FlannelDirectRouting, FlannelDual, FlannelV6, FlannelNAT, K3s}, s.Datapath)
}

// complete checks a Spec and fills in what is unset.
func (s Spec) complete() (Spec, error) {
	s.Datapath = firstOf(s.Datapath, FlannelVXLAN)
	if !slices.ContainsFunc(Datapaths(), func(d Datapath) bool { return d.Name == s.Datapath }) {
		return s, fmt.Errorf("datapath %q: %w", s.Datapath, ErrNoDatapath)
	}
	if s.Datapath == K3s || s.Datapath == Kind {
		s.Services = firstOf(s.Services, ServicesIPTables)
	}
	for _, check := range []func() error{s.checkVXLAN, s.checkServices, s.checkWith} {
		if err := check(); err != nil {
			return s, err
		}
	}
	nodes, pods := s.least()
	s.Nodes, s.Pods = orDefault(s.Nodes, nodes), orDefault(s.Pods, pods)
	if s.Nodes < nodes || s.Nodes > maxNodes || s.Nodes > nodes && !s.scales() {
		return s, fmt.Errorf("%d nodes: %s has %s", s.Nodes, s.Datapath, s.bounds(nodes))
	}
	most := s.Nodes * maxPodsPerNode
	if s.Datapath == CiliumENI {
		most = 100 // of the one subnet
	}
	if s.Pods < pods || s.Pods > most {
		return s, fmt.Errorf("%d pods: on %d nodes there can be %d to %d", s.Pods, s.Nodes, pods, most)
	}
	if s.isVXLAN() {
		s.VNI, s.Port = orDefault(s.VNI, vxlanVNI), orDefault(s.Port, vxlanPort)
	}
	return s, nil
}

func (s Spec) checkVXLAN() error {
	if !s.isVXLAN() && (s.VNI != 0 || s.Port != 0 || s.GBP || s.Learning || s.MTU != 0) {
		return fmt.Errorf("VNI, port, GBP, learning and MTU can be chosen for flannel's VXLAN, not for %s", s.Datapath)
	}
	const least, most = 1280, 65485 // IPv6 needs the first; a veth takes 50 more than the second
	switch {
	case s.VNI < 0 || s.VNI > 1<<24-1:
		return fmt.Errorf("VNI %d is not of 24 bits", s.VNI)
	case s.VNI > s.mostVNI():
		return fmt.Errorf("VNI %d: flannel names the device after it, and the name would be too long for the kernel; at most %d", s.VNI, s.mostVNI())
	case s.Port < 0 || s.Port > 65535:
		return fmt.Errorf("port %d is no UDP port", s.Port)
	case s.MTU != 0 && (s.MTU < least || s.MTU > most):
		return fmt.Errorf("MTU %d is not within %d and %d", s.MTU, least, most)
	}
	return nil
}

// mostVNI is the largest number that fits into the 15 bytes of a device's name behind "flannel." or "flannel-v6.".
func (s Spec) mostVNI() int {
	if s.Datapath == FlannelDual || s.Datapath == FlannelV6 {
		return 9999
	}
	return 9999999
}

func (s Spec) checkServices() error {
	switch s.Services {
	case "":
		return nil
	case ServicesIPTables, ServicesIPTablesLegacy, ServicesNFTables:
		if s.Datapath == CalicoVXLAN || s.Datapath == CiliumENI {
			return fmt.Errorf("services are no part of the lab of %s", s.Datapath)
		}
		return nil
	}
	return fmt.Errorf("services by %q: not one of %s, %s, %s", s.Services, ServicesIPTables, ServicesIPTablesLegacy, ServicesNFTables)
}

func (s Spec) checkWith() error {
	for _, w := range s.With {
		if !slices.Contains(surroundings, w) {
			return fmt.Errorf("surroundings %q: not one of %s", w, strings.Join(surroundings, ", "))
		}
		if w == "k3s" && s.Datapath == K3s {
			return fmt.Errorf("surroundings %q: their addresses are those of datapath %s", w, K3s)
		}
	}
	return nil
}

// least is how many nodes and pods the datapath's own story needs.
func (s Spec) least() (nodes, pods int) {
	switch s.Datapath {
	case FlannelDirectRouting:
		return 3, 4
	case CiliumENI:
		return 2, 4
	}
	return 2, 3
}

// scales reports whether the datapath's lab can have more nodes.
func (s Spec) scales() bool {
	return !slices.Contains([]string{FlannelDirectRouting, FlannelNAT, CiliumENI}, s.Datapath)
}

func (s Spec) bounds(least int) string {
	if !s.scales() {
		return fmt.Sprintf("%d", least)
	}
	return fmt.Sprintf("%d to %d", least, maxNodes)
}

// ErrNoDatapath is returned for a datapath that Datapaths does not list.
var ErrNoDatapath = errors.New("no such datapath")
