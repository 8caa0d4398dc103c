package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func (d *nftReader) readSets() error {
	type named struct {
		fam         Family
		table, name string
	}
	var all []named
	err := d.dump(unix.NFT_MSG_GETSET, nil, func(fam Family, ad *netlink.AttributeDecoder) error {
		const interval, mapFlag, objectFlag, nftaSetDesc = 4, 8, 64, 9
		var s Set
		table := ""
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_TABLE:
				table = ad.String()
			case unix.NFTA_SET_NAME:
				s.Name = ad.String()
			case unix.NFTA_SET_FLAGS:
				f := ad.Uint32()
				s.Interval, s.Map = f&interval != 0, f&(mapFlag|objectFlag) != 0
			case unix.NFTA_SET_KEY_LEN:
				s.KeyLen = ad.Uint32()
			case unix.NFTA_SET_DATA_LEN:
				s.DataLen = ad.Uint32()
			case nftaSetDesc:
				s.Fields = fieldsOf(ad.Bytes())
			}
		}
		if t := d.table(fam, table); t != nil {
			t.Sets = append(t.Sets, s)
			all = append(all, named{fam, table, s.Name})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range all {
		if err := d.readElements(n.fam, n.table, n.name); err != nil {
			return fmt.Errorf("elements of set %q: %w", n.name, err)
		}
	}
	for i := range d.r.Tables {
		for k := range d.r.Tables[i].Sets { // the kernel's order is that of a hash with a seed
			slices.SortStableFunc(d.r.Tables[i].Sets[k].Elements, func(a, b Element) int { return bytes.Compare(a.Key, b.Key) })
		}
	}
	return nil
}

func (d *nftReader) readElements(fam Family, table, name string) error {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	t := d.table(fam, table)
	return d.dumpFamily(uint8(fam), unix.NFT_MSG_GETSETELEM, attrs, func(_ Family, ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			ad.Nested(func(l *netlink.AttributeDecoder) error {
				for l.Next() {
					l.Nested(func(e *netlink.AttributeDecoder) error {
						el := element(e)
						for i := range t.Sets {
							if t.Sets[i].Name == name {
								t.Sets[i].Elements = append(t.Sets[i].Elements, el)
							}
						}
						return nil
					})
				}
				return nil
			})
		}
		return nil
	})
}

// fieldsOf reads the lengths of the parts of a concatenated key (NFTA_SET_DESC_CONCAT).
func fieldsOf(desc []byte) (fields []uint32) {
	const descConcat, fieldLen = 2, 1
	a, err := readAttrs(desc)
	if err != nil {
		return nil
	}
	list, err := decoder(a[descConcat])
	if err != nil {
		return nil
	}
	for list.Next() {
		f, err := readAttrs(list.Bytes())
		if err != nil {
			return nil
		}
		fields = append(fields, f.u32(fieldLen))
	}
	return fields
}

func element(e *netlink.AttributeDecoder) (el Element) {
	const intervalEnd, catchAll = 1, 2
	e.ByteOrder = binary.BigEndian
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			el.Key, _ = dataOf(e.Bytes())
		case nftaElemKeyEnd:
			el.KeyEnd, _ = dataOf(e.Bytes())
		case unix.NFTA_SET_ELEM_DATA:
			el.Data, el.Verdict = dataOf(e.Bytes())
		case unix.NFTA_SET_ELEM_FLAGS:
			f := e.Uint32()
			el.End, el.Any = f&intervalEnd != 0, f&catchAll != 0
		case unix.NFTA_SET_ELEM_OBJREF:
			el.Object = e.String()
		case unix.NFTA_SET_ELEM_EXPR:
			el.Limited = el.Limited || limits(e.Bytes())
		case nftaElemExprs:
			if list, err := decoder(e.Bytes()); err == nil {
				for list.Next() {
					el.Limited = el.Limited || limits(list.Bytes())
				}
			}
		}
	}
	return el
}

// limits reports whether a statement of an element may stop a rule.
func limits(expr []byte) bool {
	a, err := readAttrs(expr)
	name := a.str(unix.NFTA_EXPR_NAME)
	return err != nil || name != "counter" && name != "last"
}

// readObjects reads the named objects (NFT_MSG_GETOBJ).
func (d *nftReader) readObjects() error {
	return d.dump(unix.NFT_MSG_GETOBJ, nil, func(fam Family, ad *netlink.AttributeDecoder) error {
		var o Object
		var data []byte
		table, typ := "", uint32(0)
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_OBJ_TABLE:
				table = ad.String()
			case unix.NFTA_OBJ_NAME:
				o.Name = ad.String()
			case unix.NFTA_OBJ_TYPE:
				typ = ad.Uint32()
			case unix.NFTA_OBJ_DATA:
				data = ad.Bytes()
			}
		}
		err := o.fill(typ, data)
		if t := d.table(fam, table); t != nil {
			t.Objects = append(t.Objects, o)
		}
		return err
	})
}

// fill says what a reference to the object does (NFT_OBJECT_*).
func (o *Object) fill(typ uint32, data []byte) error {
	const objCounter, objQuota, objHelper, objLimit, objConnlimit, objTimeout, objSecmark, objExpect = 1, 2, 3, 4, 5, 7, 8, 9
	ad, err := decoder(data)
	if err != nil {
		return err
	}
	names := map[uint32]string{objQuota: "quota", objLimit: "limit", objConnlimit: "connlimit"}
	switch typ {
	case objCounter:
		o.Packets, o.Bytes = counter(ad)
		o.Counted = true
		o.Expr = Expr{Op: OpPass, Text: "counter " + o.Name}
		return ad.Err()
	case objHelper, objTimeout, objExpect:
		o.Expr = Expr{Op: OpPass, Key: needsCT, Text: "ct object " + o.Name}
		return nil
	case objSecmark:
		o.Expr = Expr{Op: OpPass, Text: "secmark " + o.Name}
		return nil
	case objQuota, objLimit, objConnlimit:
		a, err := readAttrs(data)
		if err != nil {
			return err
		}
		o.Expr, err = decodeStateful(names[typ], a, FamilyInet)
		return err
	default:
		o.Expr = Expr{Op: OpOpaque, Text: fmt.Sprintf("object %s of type %d", o.Name, typ)}
		return nil
	}
}
