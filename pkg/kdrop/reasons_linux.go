package kdrop

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// subsystems are the enums of reasons above 1<<16, the prefix of their names, and the module that has them
// where they are not built in (include/net/dropreason.h).
var subsystems = []struct{ enum, prefix, module string }{
	{"mac80211_drop_reason", "", "mac80211"},
	{"ovs_drop_reason", "OVS_DROP_", "openvswitch"},
}

// readReasons finds the tracepoint's arguments and the reasons' names in the kernel's BTF.
func readReasons(spec *btf.Spec) (*reasons, error) {
	params, err := tracepoint(spec)
	if err != nil {
		return nil, err
	}
	// void *__data, struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *rx_sk
	if len(params) < 4 {
		return nil, &UnsupportedError{Why: "the kernel gives no drop reasons (they came with Linux 5.17)"}
	}
	r := &reasons{names: make(map[uint32]string), subsys: make(map[uint32]string), consumed: noReason, tapped: noReason}
	r.rxSk = len(params) > 4
	enum(spec, "skb_drop_reason", func(name string, v uint32) {
		switch name {
		case "SKB_CONSUMED":
			r.consumed = v
		case corePrefix + "PACKET_SOCK_ERROR":
			r.tapped = v
		}
		r.names[v] = strings.TrimPrefix(name, corePrefix)
	})
	if len(r.names) == 0 {
		r.names = formatNames()
	}
	enum(spec, "skb_drop_reason_subsys", func(name string, v uint32) {
		r.subsys[v] = strings.TrimPrefix(name, corePrefix+"SUBSYS_")
	})
	for _, s := range subsystems {
		subsystem(spec, s.module, s.enum, func(name string, v uint32) {
			if v>>subsysShift != 0 {
				r.names[v] = strings.TrimPrefix(name, s.prefix)
			}
		})
	}
	return r, nil
}

// tracepoint gives the parameters of the tracepoint's probes.
func tracepoint(spec *btf.Spec) ([]btf.FuncParam, error) {
	var typedef *btf.Typedef
	if err := spec.TypeByName("btf_trace_kfree_skb", &typedef); err != nil {
		return nil, &UnsupportedError{Why: "the kernel has no tracepoint skb:kfree_skb", Err: err}
	}
	if p, ok := typedef.Type.(*btf.Pointer); ok {
		if f, ok := p.Target.(*btf.FuncProto); ok {
			return f.Params, nil
		}
	}
	return nil, &UnsupportedError{Why: "the kernel's BTF does not tell the arguments of skb:kfree_skb"}
}

// enum calls each for every enumerator; there is none of an enum that does not exist.
func enum(spec *btf.Spec, name string, each func(string, uint32)) {
	var e *btf.Enum
	if spec.TypeByName(name, &e) != nil {
		return
	}
	for _, v := range e.Values {
		each(v.Name, uint32(v.Value))
	}
}

func subsystem(spec *btf.Spec, module, name string, each func(string, uint32)) {
	if _, err := os.Stat("/sys/kernel/btf/" + module); err == nil {
		if m, err := btf.LoadKernelModuleSpec(module); err == nil {
			spec = m
		}
	}
	enum(spec, name, each)
}

// formatNames is the second source: the text of the tracepoint in tracefs, where that is mounted.
func formatNames() map[uint32]string {
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		b, err := os.ReadFile(dir + "/events/skb/kfree_skb/format")
		if err == nil {
			return parseFormat(b)
		}
	}
	return nil
}

// kernelTypes reads the kernel's BTF.
func kernelTypes() (*btf.Spec, error) {
	spec, err := btf.LoadKernelSpec()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, btf.ErrNotFound) || errors.Is(err, errors.ErrUnsupported) {
		return nil, &UnsupportedError{Why: "the kernel has no BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF)"}
	}
	if err != nil {
		return nil, &UnsupportedError{Why: "the kernel's BTF cannot be read", Err: err}
	}
	return spec, nil
}
