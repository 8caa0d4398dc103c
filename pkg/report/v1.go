package report

import "time"

// APIVersion and Kind head every report.
const (
	APIVersion = "podtrace.dev/v1"
	Kind       = "PathReport"
)

// Report is the result of one trace, apiVersion podtrace.dev/v1, kind PathReport: one value that
// every output format prints. Its JSON Schema is schema/pathreport.json.
type Report struct {
	APIVersion  string    `json:"apiVersion"`
	Kind        string    `json:"kind"`
	Generated   time.Time `json:"generated"`
	Version     string    `json:"version"` // of podtrace
	Source      Endpoint  `json:"source"`
	Destination Endpoint  `json:"destination"`
	Datapath    string    `json:"datapath"` // as found in the devices: "flannel-vxlan", "bridge", …
	Probe       *Probe    `json:"probe,omitempty"`
	Legs        []Leg     `json:"legs"`
	Findings    []Finding `json:"findings"`
	Verdict     Verdict   `json:"verdict"`
	Capture     *Capture  `json:"capture,omitempty"` // absent when no packet was looked for (check)
	// Contrast are further probes that were sent because the place alone did not decide.
	Contrast []Contrast `json:"contrast,omitempty"`
	// Size is what became of full-size packets; absent when none were sent.
	Size *Size `json:"size,omitempty"`
	// Kernel is what the kernels answered when they were asked the path's lookups themselves.
	Kernel *Kernel `json:"kernel,omitempty"`
	// Incomplete names what could not be read or observed and therefore was not judged.
	Incomplete []string `json:"incomplete,omitempty"`
	// Expectation is what a policy of the user's makes of it; absent without one.
	Expectation *Expectation `json:"expectation,omitempty"`
}

// Endpoint is one end of the path.
type Endpoint struct {
	Kind      string `json:"kind"` // "Pod", "Node", "Service", "Address"
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	IP        string `json:"ip"`
	Node      string `json:"node,omitempty"`
}

// Probe says what was sent to make the path speak, and what came back.
type Probe struct {
	Protocol string `json:"protocol"` // "icmp", "tcp", "udp", "none"
	SrcPort  uint16 `json:"srcPort,omitempty"`
	DstPort  uint16 `json:"dstPort,omitempty"`
	Sent     int    `json:"sent"`
	Answered int    `json:"answered"`
	// RTTNanos is the median round trip of the answered probes.
	RTTNanos int64  `json:"rttNanos,omitempty"`
	Error    string `json:"error,omitempty"` // what the socket said: "connect: connection refused"
}

// Names of legs.
const (
	Request = "request" // from source to destination
	Reply   = "reply"   // and back
)

// Leg is one direction of travel.
type Leg struct {
	Name string `json:"name"`
	Hops []Hop  `json:"hops"`
}

// States of a hop.
const (
	StateOK         = "ok"         // every check holds
	StateMismatch   = "mismatch"   // seen, and a check does not hold
	StateMissing    = "missing"    // a tap was there and would have shown it, and nothing passed
	StateUnobserved = "unobserved" // no tap, or one that lost frames: nothing can be said
	StateOpaque     = "opaque"     // a program (XDP, tc BPF) may take the packet past the tap
)

// Hop is one point on a leg, in the order of travel.
type Hop struct {
	Index        int      `json:"index"` // from 1
	Node         string   `json:"node"`
	Netns        string   `json:"netns"` // "host", or "NAMESPACE/POD"
	Interface    string   `json:"interface"`
	Ifindex      int      `json:"ifindex"`
	Direction    string   `json:"direction"` // "in" or "out" of the interface
	State        string   `json:"state"`
	Note         string   `json:"note,omitempty"`         // why it is unobserved, what is particular here
	Packets      int      `json:"packets"`                // probe packets (or their segments) seen here on this leg
	LatencyNanos *int64   `json:"latencyNanos,omitempty"` // since the observed hop before, median
	LatencyNote  string   `json:"latencyNote,omitempty"`  // why the latency is not to be trusted, or not known
	Latency      *Latency `json:"latency,omitempty"`      // its distribution, from ten packets on
	Lost         int      `json:"lost,omitempty"`         // seen before, and neither here nor further on
	Reordered    int      `json:"reordered,omitempty"`    // overtaken since the hop before
	Duplicates   int      `json:"duplicates,omitempty"`   // that passed here more than once
	Expected     *Headers `json:"expected,omitempty"`
	Observed     *Headers `json:"observed,omitempty"`
	Checks       []Check  `json:"checks"`
}

// Latency is how long packets took since the observed hop before. Across nodes the difference of the clocks is
// taken out (Capture.ClockSkewNanos).
type Latency struct {
	Packets  int   `json:"packets"`
	MinNanos int64 `json:"minNanos"`
	P50Nanos int64 `json:"p50Nanos"`
	P90Nanos int64 `json:"p90Nanos"`
	P99Nanos int64 `json:"p99Nanos"`
	MaxNanos int64 `json:"maxNanos"`
}

// Headers are the addresses of a frame. An empty string or zero means "any" in what is expected and
// "not there" in what was observed.
type Headers struct {
	EthSrc  string `json:"ethSrc,omitempty"`
	EthDst  string `json:"ethDst,omitempty"`
	IPSrc   string `json:"ipSrc,omitempty"`
	IPDst   string `json:"ipDst,omitempty"`
	Proto   string `json:"proto,omitempty"` // "icmp", "tcp", "udp", "icmp6", else the number
	SrcPort uint16 `json:"srcPort,omitempty"`
	DstPort uint16 `json:"dstPort,omitempty"`
	TTL     uint8  `json:"ttl,omitempty"`
	Outer   *Outer `json:"outer,omitempty"` // of a VXLAN frame; the fields above are then the inner ones
}

// Outer are the headers around a VXLAN frame. SrcPort 0 in what is expected: any (it is a hash of the
// inner flow, RFC 7348 section 5).
type Outer struct {
	Kind    string `json:"kind,omitempty"` // "udp": a bare IP packet in UDP; "" is VXLAN
	EthSrc  string `json:"ethSrc,omitempty"`
	EthDst  string `json:"ethDst,omitempty"`
	IPSrc   string `json:"ipSrc,omitempty"`
	IPDst   string `json:"ipDst,omitempty"`
	SrcPort uint16 `json:"srcPort,omitempty"`
	DstPort uint16 `json:"dstPort,omitempty"`
	VNI     uint32 `json:"vni"`
	TTL     uint8  `json:"ttl,omitempty"`
}

// Sources of what a check expects.
const (
	SourceIntent = "intent"
	SourceTables = "tables"
	SourceWire   = "wire"
)

// Check is one comparison.
type Check struct {
	Name     string `json:"name"` // "outer.ipDst", "neigh lladdr", …
	OK       bool   `json:"ok"`
	Expected string `json:"expected"`
	Observed string `json:"observed"`
	Source   string `json:"source"`            // who says what is expected
	Table    string `json:"table,omitempty"`   // "route", "neigh", "fdb", "link", "sysctl", "nft filter FORWARD", …
	Entry    string `json:"entry,omitempty"`   // the row, as iproute2 prints it
	Command  string `json:"command,omitempty"` // shows a person the same row
}

// Severities of a finding.
const (
	SeverityNote    = "note"    // odd, and no fault
	SeverityWarning = "warning" // will bite, or bites only some traffic
	SeverityError   = "error"   // breaks this path
)

// Finding is a check or an absence that does not hold.
type Finding struct {
	Cause     string   `json:"cause"` // id of the fault catalogue where one fits
	Leg       string   `json:"leg,omitempty"`
	Node      string   `json:"node,omitempty"`
	Interface string   `json:"interface,omitempty"`
	Severity  string   `json:"severity"`
	Summary   string   `json:"summary"`
	Evidence  []string `json:"evidence"`
	Remedy    string   `json:"remedy,omitempty"`
}

// Statuses of a verdict.
const (
	Healthy      = "healthy"
	Degraded     = "degraded"
	Broken       = "broken"
	Inconclusive = "inconclusive"
)

// Verdict is what the report comes to: the first finding along the path is its cause.
type Verdict struct {
	Status    string `json:"status"`
	Cause     string `json:"cause,omitempty"`
	Leg       string `json:"leg,omitempty"`
	Node      string `json:"node,omitempty"`
	Interface string `json:"interface,omitempty"`
	Summary   string `json:"summary"`
	Remedy    string `json:"remedy,omitempty"`
}

// Contrast is a further probe: what passes where the path's own packets do not.
type Contrast struct {
	Name     string   `json:"name"`
	What     string   `json:"what"`
	Sent     int      `json:"sent"`
	Seen     int      `json:"seen"` // that arrived, by a tap at the far node
	Answered int      `json:"answered,omitempty"`
	Errors   []string `json:"errors,omitempty"`
}

// Size is what became of packets as large as the sender's device takes, with fragmentation forbidden.
type Size struct {
	Bytes    int `json:"bytes"` // of the IP packet
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
	// PMTU is the smaller path MTU that an ICMP error told the sender.
	PMTU int `json:"pmtu,omitempty"`
	// Passes and Fails bracket the limit where one was measured.
	Passes int `json:"passes,omitempty"`
	Fails  int `json:"fails,omitempty"`
}

// Kernel is a second opinion on the tables: the kernels' own answers to the lookups of the path.
type Kernel struct {
	Asked   int          `json:"asked"`
	Differs []Difference `json:"differs"`
}

// Difference is a lookup that a kernel answers otherwise than the tables that it showed.
type Difference struct {
	Node    string `json:"node"`
	Netns   string `json:"netns"`
	Command string `json:"command"` // asks the same
	Tables  string `json:"tables"`  // the entry that the tables lead to
	Kernel  string `json:"kernel"`  // what the kernel says
}

// Capture says how the wire was watched.
type Capture struct {
	Points      []Point `json:"points"`
	Packets     int     `json:"packets"`
	KernelDrops int     `json:"kernelDrops"`
	// ArmNanos is the time from the first tap's socket to the last tap armed.
	ArmNanos int64 `json:"armNanos,omitempty"`
	// ClockSkewNanos is how far the clock of the destination's node is ahead of the source's, estimated from
	// both directions as if they took equally long; absent where only one was seen.
	ClockSkewNanos *int64 `json:"clockSkewNanos,omitempty"`
}

// Point is one capture point.
type Point struct {
	Node        string `json:"node"`
	Netns       string `json:"netns"`
	Interface   string `json:"interface"`
	Ifindex     int    `json:"ifindex"`
	Packets     int    `json:"packets"`
	KernelDrops int    `json:"kernelDrops"`
	Error       string `json:"error,omitempty"` // why it stopped early: "interface went down"
	// Source is the file that its packets are from, and how its place was found out where nobody said it.
	Source string `json:"source,omitempty"`
}
