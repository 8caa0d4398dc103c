package ether

import (
	"encoding/json"
	"testing"
)

func TestMAC(t *testing.T) {
	m := MustParseMAC("CE:b8:fc:a6:06:d2")
	if m.String() != "ce:b8:fc:a6:06:d2" || m.IsMulticast() || m.IsZero() {
		t.Errorf("%s", m)
	}
	if !Broadcast.IsMulticast() || !MustParseMAC("33:33:00:00:00:01").IsMulticast() {
		t.Error("group addresses are not told")
	}
	if got := FromHardwareAddr(m.HardwareAddr()); got != m {
		t.Errorf("there and back: %s", got)
	}
	for _, s := range []string{"", "ce:b8", "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01", "zz:00:00:00:00:00"} {
		if got, err := ParseMAC(s); err == nil || !got.IsZero() {
			t.Errorf("ParseMAC(%q) = %s, %v", s, got, err)
		}
	}
}

func TestMACJSON(t *testing.T) {
	for _, m := range []MAC{{}, MustParseMAC("1e:0f:7e:bb:26:2b")} {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := Broadcast
		if err := json.Unmarshal(b, &got); err != nil || got != m {
			t.Errorf("%s comes back as %s, %v", m, got, err)
		}
	}
	var m MAC
	if err := json.Unmarshal([]byte(`"nonsense"`), &m); err == nil {
		t.Error("nonsense is taken")
	}
}
