package listing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// document reads a JSON value that begins on this line, whatever its lines look like, and reports whether
// there was one. Its elements say what it is.
func (p *page) document(l line, text string) bool {
	const tries = 64 // texts that only look like JSON
	if text == "" || text[0] != '[' && text[0] != '{' || p.tries >= tries || p.block != nil && p.block.Kind == kindFragment {
		return false
	}
	if rest := strings.TrimSpace(text[1:]); rest != "" && !strings.ContainsRune(`{["]}`, rune(rest[0])) {
		return false
	}
	body := p.in.Text[l.at:min(len(p.in.Text), l.at+maxDocument)]
	dec := json.NewDecoder(bytes.NewReader(body))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		p.tries++
		return false
	}
	end := int(dec.InputOffset())
	for p.next < len(p.lines) && p.lines[p.next].at < l.at+end {
		p.next++
	}
	if p.skip && p.block != nil && p.block.cmd.text != "" {
		return true // docker inspect, bpftool -j
	}
	if p.cur == nil || p.block.Rows > 0 && p.blank {
		p.close()
		p.open("", command{}, nil, listOptions{}, l)
	}
	p.readJSON(l, raw)
	return true
}

// readJSON dispatches on what the elements are.
func (p *page) readJSON(l line, raw json.RawMessage) {
	b := p.block
	b.quality = fromJSON
	switch raw = bytes.TrimSpace(raw); {
	case raw[0] == '{':
		p.readObject(l, raw)
		return
	case string(raw) == "[]" && b.Kind != "":
		b.Rows++
		return
	}
	j := &jsonRows{block: b}
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token() // the bracket: raw is valid
	for dec.More() {
		var e json.RawMessage
		at := int(dec.InputOffset())
		if err := dec.Decode(&e); err != nil {
			break
		}
		at += bytes.IndexAny(raw[at:], "{[\"0123456789tfn-")
		row := line{no: l.no + bytes.Count(raw[:at], []byte("\n")), at: l.at + at, text: string(e[:min(len(e), maxNoteLength)])}
		if err := j.element(row, e); err != nil {
			b.unread(row, err.Error())
			continue
		}
		b.Rows++
	}
	j.end()
}

// readObject is a document of nft or of Kubernetes.
func (p *page) readObject(l line, raw json.RawMessage) {
	var head struct {
		NFTables json.RawMessage `json:"nftables"`
		Kind     string          `json:"kind"`
		Version  string          `json:"apiVersion"`
	}
	_ = json.Unmarshal(raw, &head)
	b := p.block
	switch {
	case head.NFTables != nil:
		b.Kind, p.skip = kindNFT, false
		readNFTables(b, l, head.NFTables)
	case head.Kind != "" && head.Version != "":
		b.Kind, p.skip = kindKubeYAML, false
		b.objects(l, raw)
	default:
		if b.Kind != "" {
			b.unread(l, "JSON that is not understood as "+b.Kind)
		}
		return
	}
	b.Rows++
}

// jsonRows reads the arrays of iproute2's -j.
type jsonRows struct {
	*block
	seen map[string]bool
}

// element tells the kinds of rows apart by their keys: every tool's have some of their own.
func (j *jsonRows) element(l line, e json.RawMessage) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(e, &keys); err != nil || len(keys) == 0 {
		return fmt.Errorf("is no row of a listing")
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := keys[n]; !ok {
				return false
			}
		}
		return true
	}
	switch {
	case has("mac", "ifname"):
		j.kind(kindFDB)
		return j.fdbRow(l, e)
	case has("ifname", "vlans"):
		j.kind(kindBridgeVLAN)
		return j.vlanRow(l, e)
	case has("ifname", "ifindex"), has("ifname", "addr_info"), has("ifname", "operstate"):
		j.kind(kindIPLink)
		return j.linkRow(l, e, has("addr_info"), has("linkmode") || has("link_type"))
	case has("priority", "src"):
		j.kind(kindIPRule)
		return j.ruleRow(l, e)
	case has("id", "flags"), has("id", "blackhole"), has("id", "group"):
		j.kind(kindIPNexthop)
		return j.nexthopRow(l, e)
	case has("dst") && (has("lladdr") || has("state") || has("proxy") || j.Kind == kindIPNeigh):
		j.kind(kindIPNeigh)
		return j.neighRow(l, e)
	case has("dst"):
		j.kind(kindIPRoute)
		return j.routeRow(l, e)
	case has("kind", "handle"), has("kind", "pref"):
		return j.tcRow(l, e, has("pref"))
	}
	return fmt.Errorf("is a row of no listing that is known")
}

// kind notes what the array turned out to be.
func (j *jsonRows) kind(k string) {
	if j.seen == nil {
		j.seen = make(map[string]bool)
	}
	if j.Kind == "" {
		j.Kind = k
	}
	j.page.skip = false
	j.seen[k] = true
}

// end says what was listed whole, as the text forms do.
func (j *jsonRows) end() {
	if j.opts.limited {
		return
	}
	switch o := j.opts; {
	case j.seen[kindIPLink] && !strings.Contains(j.cmd.text, "bridge"):
		j.cover(tabLinks, o.dev)
		if j.seen["addr_info"] && o.family == 0 {
			j.cover(tabAddrs, o.dev)
		}
	case j.seen[kindFDB] && o.bridge == "":
		j.cover(tabFDB, o.dev)
	case j.seen[kindIPNeigh] && !o.proxy && o.family == 0:
		j.cover(tabNeighs, o.dev)
	case j.seen[kindIPRule]:
		j.cover(tabRules, routeKey(max(o.family, afInet), 0))
	case j.seen[kindIPRoute] && o.dev == "":
		r := newIPRoute(j.block)
		coverRoutes(j.facts, o, r.table, r.all)
	}
}
