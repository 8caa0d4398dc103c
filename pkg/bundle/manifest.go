package bundle

import (
	"net/netip"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// manifest is manifest.json: all of a case that has no file of its own.
type manifest struct {
	Format      int         `json:"format"`
	Podtrace    string      `json:"podtrace"` // the version that wrote it
	Taken       time.Time   `json:"taken"`    // of the first namespace that was read
	Interrupted bool        `json:"interrupted,omitempty"`
	Request     request     `json:"request"`
	Netns       []netnsFile `json:"netns"`
	Capture     *recording  `json:"capture,omitempty"`
	Sized       *sized      `json:"sized,omitempty"`
	Incomplete  []string    `json:"incomplete,omitempty"`
	Lost        []string    `json:"lost,omitempty"` // nodes that were out of reach
}

// request is what was asked and sent.
type request struct {
	Source      endpoint         `json:"source"`
	Destination endpoint         `json:"destination"`
	From        resolve.Location `json:"from"`
	To          resolve.Location `json:"to"`
	Targets     []trace.Target   `json:"targets,omitempty"`
	Flow        flow             `json:"flow"`
	Marker      []byte           `json:"marker,omitempty"` // starts the probe's payloads
	Sent        sent             `json:"sent"`
	Probe       *report.Probe    `json:"probe,omitempty"`
}

// netnsFile says which file holds a namespace.
type netnsFile struct {
	ID   tables.NetnsID `json:"id"`
	Node string         `json:"node"`
	Name string         `json:"name"`
	File string         `json:"file"`
}

// recording is one capture.
type recording struct {
	File       string  `json:"file"`
	ArmNanos   int64   `json:"armNanos"`
	BeginNanos int64   `json:"beginNanos,omitempty"` // since the epoch
	EndNanos   int64   `json:"endNanos,omitempty"`   // since the epoch
	Points     []point `json:"points"`
	// Interfaces are those of the capture file, in its order.
	Interfaces []iface `json:"interfaces"`
}

// iface is one interface block: a point, with the hardware type (ARPHRD_*) of its frames.
type iface struct {
	Point    int    `json:"point"`
	LinkType string `json:"linkType"` // "ethernet", "raw": frames start at the IP header
	HWType   uint16 `json:"arphrd"`
}

// point is one capture point and what became of it.
type point struct {
	ID          int            `json:"id"`
	Node        string         `json:"node"`
	Name        string         `json:"netns"` // tables.Netns.Name
	Netns       tables.NetnsID `json:"netnsID"`
	Interface   string         `json:"interface"`
	Ifindex     tables.Ifindex `json:"ifindex"`
	Packets     uint64         `json:"packets"`
	Drops       uint64         `json:"drops"`
	Overflow    uint64         `json:"overflow,omitempty"`
	FreezeQueue uint64         `json:"freezeQueue,omitempty"`
	Truncated   int            `json:"truncated,omitempty"`
	StatsID     int            `json:"statsID,omitempty"` // capture.PointStats.ID
	Error       string         `json:"error,omitempty"`
	Flapped     bool           `json:"flapped,omitempty"`
}

// sized is the trace of full-size packets.
type sized struct {
	Flow    flow          `json:"flow"`
	Size    diagnose.Size `json:"size"`
	Capture *recording    `json:"capture,omitempty"`
}

// witnesses is witness.json.
type witnesses struct {
	Witness diagnose.Witness `json:"witness"`
	Sized   diagnose.Witness `json:"sized"` // of the full-size packets
	Opinion *trace.Opinion   `json:"opinion,omitempty"`
}

// flow is forward.Flow with names for a file. Their conversion holds the two together: a new field of the one does
// not compile without the other's.
type flow struct {
	Proto    uint8      `json:"proto"`
	Src      netip.Addr `json:"src"`
	Dst      netip.Addr `json:"dst"`
	SrcPort  uint16     `json:"srcPort,omitempty"`
	DstPort  uint16     `json:"dstPort,omitempty"`
	ICMPType uint8      `json:"icmpType,omitempty"`
	ICMPCode uint8      `json:"icmpCode,omitempty"`
	TCPFlags uint8      `json:"tcpFlags,omitempty"`
	Length   int        `json:"length,omitempty"`
	TTL      uint8      `json:"ttl,omitempty"`
	DF       bool       `json:"df,omitempty"`
	GSO      bool       `json:"gso,omitempty"`
	Mark     uint32     `json:"mark,omitempty"`

	Any forward.Field `json:"any,omitempty"`
}

// sent is diagnose.Sent, likewise.
type sent struct {
	Watching bool     `json:"watching,omitempty"`
	Sent     int      `json:"sent"`
	Answered int      `json:"answered"`
	Errors   []string `json:"errors,omitempty"`
}

// The two pairs convert into each other.
var (
	_ = flow(forward.Flow{})
	_ = sent(diagnose.Sent{})
)

// endpoint is inventory.Endpoint without the objects that it points to, which are found again by name.
type endpoint struct {
	Kind        inventory.EndpointKind `json:"kind"`
	Namespace   string                 `json:"namespace,omitempty"`
	Name        string                 `json:"name,omitempty"`
	IPs         []netip.Addr           `json:"ips"`
	Node        string                 `json:"node,omitempty"`
	HostNetwork bool                   `json:"hostNetwork,omitempty"`
	Deployment  string                 `json:"deployment,omitempty"`
	ServicePort *servicePort           `json:"servicePort,omitempty"`
	Service     *serviceName           `json:"service,omitempty"` // that a node's port leads to
	Port        uint16                 `json:"port,omitempty"`
}

type serviceName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// servicePort is inventory.ServicePort, with names for a file.
type servicePort struct {
	Name     string `json:"name,omitempty"`
	Proto    string `json:"proto"`
	Port     uint16 `json:"port"`
	NodePort uint16 `json:"nodePort,omitempty"`
	Target   string `json:"target,omitempty"`
}

func fromEndpoint(e inventory.Endpoint) endpoint {
	out := endpoint{
		Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, IPs: e.IPs, Node: e.Node,
		HostNetwork: e.HostNetwork, Deployment: e.Deployment, Port: e.Port,
	}
	if e.Service != nil && e.Kind != inventory.KindService {
		out.Service = &serviceName{e.Service.Namespace, e.Service.Name}
	}
	if e.ServicePort != nil {
		p := servicePort(*e.ServicePort)
		out.ServicePort = &p
	}
	return out
}

// endpoint finds the objects of an endpoint again.
func (e endpoint) endpoint(inv *inventory.Inventory) inventory.Endpoint {
	out := inventory.Endpoint{
		Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, IPs: e.IPs, Node: e.Node,
		HostNetwork: e.HostNetwork, Deployment: e.Deployment, Port: e.Port,
	}
	switch e.Kind {
	case inventory.KindPod:
		out.Pod, out.NodeObj = inv.Pod(e.Namespace, e.Name), inv.Node(e.Node)
	case inventory.KindNode:
		out.NodeObj = inv.Node(e.Node)
		if e.Service != nil {
			out.Service = inv.Service(e.Service.Namespace, e.Service.Name)
			out.ServicePort = e.portOf(out.Service)
		} else if e.ServicePort != nil { // a pod's hostPort
			out = inv.ForProto(out, e.ServicePort.Proto)
		}
	case inventory.KindService:
		out.Service = inv.Service(e.Namespace, e.Name)
		out.ServicePort = e.portOf(out.Service)
	case inventory.KindAddress:
		if i := slices.IndexFunc(inv.Hosts, func(h inventory.Host) bool { return h.Name == e.Name }); i >= 0 {
			out.Host = &inv.Hosts[i]
		}
	}
	return out
}

func (e endpoint) portOf(s *inventory.Service) *inventory.ServicePort {
	if e.ServicePort == nil {
		return nil
	}
	want := inventory.ServicePort(*e.ServicePort)
	if s != nil {
		if i := slices.Index(s.Ports, want); i >= 0 {
			return &s.Ports[i]
		}
	}
	return &want
}
