package lab

import (
	"net/netip"
	"slices"
)

// service is one Service with its EndpointSlice, of one family of addresses: a dual-stack Service is one of each.
type service struct {
	name      string // in namespace default
	app       string // selector; "": nobody
	clusterIP netip.Addr
	ports     []servicePort
	local     bool // externalTrafficPolicy: Local
	affinity  int  // sessionAffinity ClientIP, timeout in seconds; 0: None
	endpoints []endpoint
}

// servicePort is one port of a service; numbers in host byte order.
type servicePort struct {
	name, proto string // "http", "tcp"
	port        int
	target      int
	nodePort    int // 0: none
}

// at is where an endpoint takes what is for the port.
func (p servicePort) at(ip netip.Addr) string {
	return netip.AddrPortFrom(ip, uint16(p.target)).String() //nolint:gosec // a port
}

// endpoint is one address behind a service.
type endpoint struct {
	ip   netip.Addr
	node string
}

// nodePorts reports whether any port of the service is reached by the nodes' addresses.
func (s service) nodePorts() bool {
	return slices.ContainsFunc(s.ports, func(p servicePort) bool { return p.nodePort != 0 })
}

// Where a lab has its services, by family: kubeadm's default, k3s' own, and one of IPv6.
var (
	serviceNet    = netip.MustParsePrefix("10.96.0.0/12")
	k3sServiceNet = netip.MustParsePrefix("10.43.0.0/16")
	serviceNet6   = netip.MustParsePrefix("fd00:10:96::/112")
)

// serviceNet is the range of the cluster IPs of a family.
func (c *cluster) serviceNet(is6 bool) netip.Prefix {
	switch {
	case is6:
		return serviceNet6
	case c.spec.Datapath == K3s:
		return k3sServiceNet
	}
	return serviceNet
}

// numbered is an address of the range: its first one, with the last byte set.
func numbered(p netip.Prefix, last byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] = last
	ip, _ := netip.AddrFromSlice(b) // of the same length as before
	return ip
}

// seedServices are the services of a lab with kube-proxy, as one family sees them. cheddar is that of document 004.
func (c *cluster) seedServices(is6 bool) []service {
	net := c.serviceNet(is6)
	cheddar := netip.MustParseAddr("10.101.171.243")
	if !net.Contains(cheddar) {
		cheddar = numbered(net, 13)
	}
	services := []service{
		{
			name: "coffee", app: "coffee", clusterIP: numbered(net, 10),
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort, nodePort: 30080}},
		},
		{
			name: "tea", app: "tea", clusterIP: numbered(net, 11),
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort, nodePort: 30082}},
		},
		{
			name: "echo", app: "coffee", clusterIP: numbered(net, 12),
			ports: []servicePort{
				{name: "echo", proto: "tcp", port: echoPort, target: echoPort},
				{name: "echo-udp", proto: "udp", port: echoPort, target: echoPort, nodePort: 30007},
			},
		},
		{
			name: "cheddar", app: "coffee", clusterIP: cheddar, local: true, affinity: 10800,
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort, nodePort: 32604}},
		},
		{
			name: "milk", clusterIP: numbered(net, 14),
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort}},
		},
	}
	for i := range services {
		for _, p := range c.pods {
			if services[i].app == p.app {
				services[i].endpoints = append(services[i].endpoints, endpoint{of(p.ips, is6), p.node})
			}
		}
	}
	return services
}

// addProxies gives a node its kube-proxy: one of each family, as kube-proxy has it.
func (c *cluster) addProxies(p *plan, n node) {
	if c.spec.Services == "" {
		return
	}
	for _, is6 := range c.families() {
		p.proxies = append(p.proxies, &kubeProxy{
			mode: c.spec.Services, is6: is6, node: n.name, nodeIP: of(n.ips, is6),
			podNet: c.podNetOf(is6), serviceNet: c.serviceNet(is6), services: c.seedServices(is6),
		})
	}
}

// serviceIP is the cluster IP of a service, of the primary family.
func (c *cluster) serviceIP(name string) netip.Addr {
	services := c.seedServices(!c.v4)
	i := slices.IndexFunc(services, func(s service) bool { return s.name == name })
	if i < 0 {
		return netip.Addr{}
	}
	return services[i].clusterIP
}

// kubeProxy is what the kube-proxy of one node knows of a family of addresses, and writes rules of.
type kubeProxy struct {
	mode               string // one of the Services constants
	is6                bool
	node               string
	nodeIP             netip.Addr
	podNet, serviceNet netip.Prefix
	services           []service
	// noMasquerade: it was told a wrong cluster CIDR and masquerades nothing that comes from outside.
	noMasquerade bool
}

// ruleset is the text for the program of the mode.
func (k *kubeProxy) ruleset() string {
	if k.mode == ServicesNFTables {
		return k.nftables()
	}
	return k.iptables()
}

// localEndpoints are those on the proxy's own node.
func (k *kubeProxy) localEndpoints(s service) []endpoint {
	return slices.DeleteFunc(slices.Clone(s.endpoints), func(e endpoint) bool { return e.node != k.node })
}
