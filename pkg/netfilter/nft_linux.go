package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// readNFT dumps all tables, chains, rules and sets. The expressions are read from the attributes
// themselves, so that one that nobody knows is kept as unknown.
func (r *Ruleset) readNFT(h *netns.Handle) error {
	var c *netlink.Conn
	err := h.Do(func() (err error) {
		c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // only read
	for try := 0; ; try++ {
		d := &nftReader{c: c, r: &Ruleset{}, tables: make(map[string]int), chains: make(map[string]int)}
		before, err := d.generation()
		if err != nil {
			return err
		}
		for _, f := range []func() error{d.readTables, d.readChains, d.readRules, d.readSets, d.readObjects} {
			if err := f(); err != nil {
				return err
			}
		}
		after, err := d.generation()
		if err != nil {
			return err
		}
		if before != after && try < maxTries {
			continue
		}
		d.describe()
		r.Tables = append(r.Tables, d.r.Tables...)
		if before != after {
			r.incomplete("nftables", errChanging)
		}
		return nil
	}
}

// maxTries bounds the reading of rules that change while they are read.
const maxTries = 5

var errChanging = errors.New("the rules changed while they were read")

type nftReader struct {
	c      *netlink.Conn
	r      *Ruleset
	tables map[string]int // family and name → index in r.Tables
	chains map[string]int // and the chain's name → index in its table
}

// generation is the number of changes that the rules have seen (NFT_MSG_GETGEN).
func (d *nftReader) generation() (id uint32, err error) {
	msgs, err := d.c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		a, err := readAttrs(m.Data[4:])
		if err != nil {
			return 0, err
		}
		id = a.u32(1) // NFTA_GEN_ID
	}
	return id, nil
}

// describe gives every rule its text, for which the sets are needed.
func (d *nftReader) describe() {
	for i := range d.r.Tables {
		t := &d.r.Tables[i]
		for k := range t.Chains {
			for n := range t.Chains[k].Rules {
				t.describe(&t.Chains[k].Rules[n])
			}
		}
	}
}

// dump asks for all objects of one sort, and gives family and attributes of each.
func (d *nftReader) dump(msg int, attrs []byte, each func(fam Family, ad *netlink.AttributeDecoder) error) error {
	return d.dumpFamily(unix.AF_UNSPEC, msg, attrs, each)
}

func (d *nftReader) dumpFamily(fam uint8, msg int, attrs []byte, each func(fam Family, ad *netlink.AttributeDecoder) error) error {
	req := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | msg),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{fam, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
	msgs, err := d.c.Execute(req)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := decoder(m.Data[4:])
		if err != nil {
			return err
		}
		if err := each(Family(m.Data[0]), ad); err != nil {
			return err
		}
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

func decoder(b []byte) (*netlink.AttributeDecoder, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err == nil {
		ad.ByteOrder = binary.BigEndian
	}
	return ad, err
}

func tableKey(fam Family, name string) string { return fmt.Sprintf("%d %s", fam, name) }

func (d *nftReader) table(fam Family, name string) *Table {
	if i, ok := d.tables[tableKey(fam, name)]; ok {
		return &d.r.Tables[i]
	}
	return nil
}

func (d *nftReader) readTables() error {
	const dormant = 1
	return d.dump(unix.NFT_MSG_GETTABLE, nil, func(fam Family, ad *netlink.AttributeDecoder) error {
		t := Table{Backend: BackendNFT, Family: fam}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				t.Name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				t.Dormant = ad.Uint32()&dormant != 0
			}
		}
		d.tables[tableKey(fam, t.Name)] = len(d.r.Tables)
		d.r.Tables = append(d.r.Tables, t)
		return nil
	})
}

func (d *nftReader) readChains() error {
	return d.dump(unix.NFT_MSG_GETCHAIN, nil, func(fam Family, ad *netlink.AttributeDecoder) error {
		var c Chain
		table, hooknum := "", uint32(0)
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				c.Name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				c.Type = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				c.Drop = ad.Uint32() == 0
			case unix.NFTA_CHAIN_COUNTERS:
				ad.Nested(func(n *netlink.AttributeDecoder) error {
					c.Packets, c.Bytes = counter(n)
					c.Counted = true
					return nil
				})
			case unix.NFTA_CHAIN_HOOK:
				c.Base = true
				ad.Nested(func(n *netlink.AttributeDecoder) error {
					hooknum = chainHook(n, &c)
					return nil
				})
			}
		}
		if c.Base && c.Type == "" {
			c.Type = "filter"
		}
		c.Hook = hookOf(fam, hooknum)
		if t := d.table(fam, table); t != nil {
			d.chains[tableKey(fam, table)+"\x00"+c.Name] = len(t.Chains)
			t.Chains = append(t.Chains, c)
		}
		return nil
	})
}

// counter reads a counter (NFTA_COUNTER_*).
func counter(n *netlink.AttributeDecoder) (packets, bytes uint64) {
	n.ByteOrder = binary.BigEndian
	for n.Next() {
		switch n.Type() {
		case unix.NFTA_COUNTER_PACKETS:
			packets = n.Uint64()
		case unix.NFTA_COUNTER_BYTES:
			bytes = n.Uint64()
		}
	}
	return packets, bytes
}

// Attributes that golang.org/x/sys does not have (linux/netfilter/nf_tables.h).
const (
	nftaHookDev    = 3
	nftaHookDevs   = 4
	nftaDeviceName = 1
	nftaDevPrefix  = 2
	nftaElemKeyEnd = 10
	nftaElemExprs  = 11
)

func chainHook(n *netlink.AttributeDecoder, c *Chain) (num uint32) {
	n.ByteOrder = binary.BigEndian
	for n.Next() {
		switch n.Type() {
		case unix.NFTA_HOOK_HOOKNUM:
			num = n.Uint32()
		case unix.NFTA_HOOK_PRIORITY:
			c.Priority = int32(n.Uint32()) //nolint:gosec // signed on the wire
		case nftaHookDev:
			c.Devices = append(c.Devices, n.String())
		case nftaHookDevs:
			n.Nested(func(l *netlink.AttributeDecoder) error {
				for l.Next() {
					switch l.Type() {
					case nftaDeviceName:
						c.Devices = append(c.Devices, l.String())
					case nftaDevPrefix:
						c.Devices = append(c.Devices, l.String()+"*")
					}
				}
				return nil
			})
		}
	}
	return num
}

// hookOf turns a family's own hook number into ours.
func hookOf(fam Family, num uint32) Hook {
	const inetIngress = 5
	switch {
	case fam == FamilyNetdev && num == 1:
		return HookEgress
	case fam == FamilyARP: // NF_ARP_IN, OUT, FORWARD
		return [...]Hook{HookInput, HookOutput, HookForward}[min(num, 2)]
	case fam == FamilyNetdev, fam == FamilyInet && num == inetIngress:
		return HookIngress
	default:
		return Hook(num) //nolint:gosec // 0 to 4
	}
}

func (d *nftReader) readRules() error {
	return d.dump(unix.NFT_MSG_GETRULE, nil, func(fam Family, ad *netlink.AttributeDecoder) error {
		var r Rule
		table, chain := "", ""
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_HANDLE:
				r.Handle = ad.Uint64()
			case unix.NFTA_RULE_USERDATA:
				r.Comment = userComment(ad.Bytes())
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(l *netlink.AttributeDecoder) error {
					for l.Next() {
						l.Nested(func(e *netlink.AttributeDecoder) error { return r.addExpr(e, fam) })
					}
					return nil
				})
			}
		}
		d.addRule(fam, table, chain, r)
		return nil
	})
}

func (d *nftReader) addRule(fam Family, table, chain string, r Rule) {
	t := d.table(fam, table)
	i, ok := d.chains[tableKey(fam, table)+"\x00"+chain]
	if t == nil || !ok {
		return
	}
	c := &t.Chains[i]
	r.Number = len(c.Rules) + 1
	c.Rules = append(c.Rules, r)
}

// userComment reads libnftnl's comment: type 0, length, text.
func userComment(b []byte) string {
	for len(b) >= 2 {
		typ, n := b[0], int(b[1])
		if 2+n > len(b) {
			break
		}
		if typ == 0 && n > 0 {
			return string(b[2 : 2+n-1])
		}
		b = b[2+n:]
	}
	return ""
}

// addExpr reads one expression; counters go to the rule.
func (r *Rule) addExpr(e *netlink.AttributeDecoder, fam Family) error {
	name := ""
	var data []byte
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_EXPR_NAME:
			name = e.String()
		case unix.NFTA_EXPR_DATA:
			data = e.Bytes()
		}
	}
	if name == "counter" {
		ad, err := decoder(data)
		if err != nil {
			return err
		}
		r.Packets, r.Bytes = counter(ad)
		r.Counted = true
		r.Exprs = append(r.Exprs, Expr{Op: OpPass, Text: "counter"})
		return nil
	}
	x, err := decodeExpr(name, data, fam)
	if err != nil {
		x = Expr{Op: OpOpaque, Text: fmt.Sprintf("%s (%v)", name, err)}
	}
	r.Exprs = append(r.Exprs, x)
	return nil
}
