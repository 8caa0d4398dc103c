package decode

import (
	"encoding/binary"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
)

const (
	tagLen = 4  // bytes of a VLAN tag: TCI, and the EtherType of what follows
	arpLen = 28 // bytes of an ARP packet for IPv4 over Ethernet

	typeOldQinQ uint16 = 0x9100 // service tags from before IEEE 802.1ad
)

// isTag reports whether a VLAN tag follows the EtherType.
func isTag(etherType uint16) bool {
	return etherType == ether.TypeVLAN || etherType == ether.TypeQinQ || etherType == typeOldQinQ
}

// ethernet reads the frame at off into h.
func (w *walker) ethernet(h *Headers, off int) {
	if !w.need(LayerEthernet, off, ether.HeaderLen) {
		return
	}
	b := w.data[off : off+ether.HeaderLen]
	h.EthDst = ether.MAC(b[0:6])
	h.EthSrc = ether.MAC(b[6:12])
	h.EtherType = binary.BigEndian.Uint16(b[12:14])
	off += ether.HeaderLen
	for isTag(h.EtherType) && int(h.VLANCount) < len(h.VLANs) {
		if !w.need(LayerVLAN, off, tagLen) {
			return
		}
		h.VLANs[h.VLANCount] = VLAN{TPID: h.EtherType, TCI: binary.BigEndian.Uint16(w.data[off:])}
		h.VLANCount++
		h.EtherType = binary.BigEndian.Uint16(w.data[off+2:])
		off += tagLen
	}
	switch h.EtherType {
	case ether.TypeIPv4:
		w.ipv4(h, off)
	case ether.TypeIPv6:
		w.ipv6(h, off)
	case ether.TypeARP:
		w.arp(h, off)
	}
}

// arp reads ARP for IPv4 over Ethernet; of other address families only the operation.
func (w *walker) arp(h *Headers, off int) {
	if !w.need(LayerARP, off, 8) {
		return
	}
	b := w.data[off:]
	h.ARPOp = binary.BigEndian.Uint16(b[6:8])
	// Hardware type 1 (Ethernet), protocol type IPv4, address lengths 6 and 4.
	const ethernetIPv4 = 0x0001_0800_0604
	if binary.BigEndian.Uint64(b)>>16 != ethernetIPv4 || !w.need(LayerARP, off, arpLen) {
		return
	}
	h.ARPSrcMAC = ether.MAC(b[8:14])
	h.ARPSrcIP = netip.AddrFrom4([4]byte(b[14:18]))
	h.ARPDstMAC = ether.MAC(b[18:24])
	h.ARPDstIP = netip.AddrFrom4([4]byte(b[24:28]))
}
