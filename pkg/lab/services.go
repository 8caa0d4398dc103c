package lab

import (
	"net/netip"
	"slices"
)

// service is one Service with its EndpointSlice.
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

// endpoint is one address behind a service.
type endpoint struct {
	ip   netip.Addr
	node string
}

// nodePorts reports whether any port of the service is reached by the nodes' addresses.
func (s service) nodePorts() bool {
	return slices.ContainsFunc(s.ports, func(p servicePort) bool { return p.nodePort != 0 })
}

// seedServices are the services of a lab with kube-proxy. cheddar is that of document 004.
func (c *cluster) seedServices() []service {
	services := []service{
		{
			name: "coffee", app: "coffee", clusterIP: netip.MustParseAddr("10.96.0.10"),
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort, nodePort: 30080}},
		},
		{
			name: "tea", app: "tea", clusterIP: netip.MustParseAddr("10.96.0.11"),
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort, nodePort: 30082}},
		},
		{
			name: "echo", app: "coffee", clusterIP: netip.MustParseAddr("10.96.0.12"),
			ports: []servicePort{
				{name: "echo", proto: "tcp", port: echoPort, target: echoPort},
				{name: "echo-udp", proto: "udp", port: echoPort, target: echoPort, nodePort: 30007},
			},
		},
		{
			name: "cheddar", app: "coffee", clusterIP: netip.MustParseAddr("10.101.171.243"), local: true, affinity: 10800,
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort, nodePort: 32604}},
		},
		{
			name: "milk", clusterIP: netip.MustParseAddr("10.96.0.14"),
			ports: []servicePort{{name: "http", proto: "tcp", port: 80, target: httpPort}},
		},
	}
	for i := range services {
		for _, p := range c.pods {
			if services[i].app == p.app {
				services[i].endpoints = append(services[i].endpoints, endpoint{p.ip(), p.node})
			}
		}
	}
	return services
}

func cloneServices(services []service) []service {
	out := slices.Clone(services)
	for i := range out {
		out[i].endpoints = slices.Clone(out[i].endpoints)
	}
	return out
}

// kubeProxy is what the kube-proxy of one node knows, and writes rules of.
type kubeProxy struct {
	mode     string // one of the Services constants
	node     string
	nodeIP   netip.Addr
	podNet   netip.Prefix
	services []service
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
