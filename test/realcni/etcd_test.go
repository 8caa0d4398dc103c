package realcni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix is where flanneld looks in etcd.
const prefix = "/coreos.com/network/"

// lease is what a flanneld writes of itself (pkg/lease.LeaseAttrs).
type lease struct {
	PublicIP      string
	PublicIPv6    string
	BackendType   string
	BackendData   json.RawMessage
	BackendV6Data json.RawMessage
}

// etcd is a client of the JSON gateway of etcd 3.4. etcd can be reached in the cluster's network alone, so that is where
// the client's connections begin.
type etcd struct{ http http.Client }

// network is flanneld's configuration, net-conf.json.
func (c config) network() string {
	families := `"Network": "10.244.0.0/16", "SubnetMin": "10.244.0.0"` // of itself, with etcd, flanneld leaves the first out
	switch {
	case c.only6:
		families = `"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/48"`
	case c.dual:
		families += `, "EnableIPv6": true, "IPv6Network": "fd44::/48"`
	}
	return fmt.Sprintf(`{%s%s, "Backend": %s}`, families, c.extra, c.backend)
}

// startEtcd runs etcd on the control plane's machine, with the network configuration in it.
func (w *world) startEtcd() {
	url := "http://" + controlIP + ":2379"
	w.start(controlNS, "etcd", nil, "etcd", "--data-dir="+filepath.Join(w.dir, "etcd"), "--listen-client-urls="+url,
		"--advertise-client-urls="+url, "--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync")
	w.etcd.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: dialIn(controlNS)}
	w.await("etcd", func() bool { return w.etcd.put("config", w.cfg.network()) == nil })
	for subnet, attrs := range w.cfg.others {
		w.must(w.etcd.put("subnets/"+subnet, attrs))
	}
}

// dialIn connects from within a namespace.
func dialIn(ns string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = within(ns, func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// within opens a socket in a namespace, where it stays.
func within(ns string, open func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var f *os.File
		if f, err = os.Open(filepath.Join("/run/netns", ns)); err != nil {
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			err = open()
		}
	}()
	<-done
	return err
}

func (e *etcd) post(call string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	resp, err := e.http.Post("http://"+controlIP+":2379/v3/kv/"+call, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

func (e *etcd) put(key, value string) error {
	var answer struct{}
	return e.post("put", map[string][]byte{"key": []byte(prefix + key), "value": []byte(value)}, &answer)
}

// leases are those of all members by the name of the subnet: "10.244.1.0-24".
func (e *etcd) leases(w *world) map[string]lease {
	w.t.Helper()
	var answer struct {
		KVs []struct{ Key, Value []byte }
	}
	from := prefix + "subnets/"
	w.must(e.post("range", map[string][]byte{"key": []byte(from), "range_end": []byte(prefix + "subnets0")}, &answer)) // '0' comes after '/'
	leases := map[string]lease{}
	for _, kv := range answer.KVs {
		var l lease
		w.must(json.Unmarshal(kv.Value, &l))
		leases[strings.TrimPrefix(string(kv.Key), from)] = l
	}
	return leases
}
