package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The programs' own configuration files, with the placeholders that fill replaces.
//
//go:embed config
var configs embed.FS

const kubernetesDir = "/etc/kubernetes/"

// writeControl writes the files of the control plane into its machine's root, and the administrator's kubeconfig.
func (c *Cluster) writeControl(ca *authority) error {
	if err := ca.save(c.path("pki")); err != nil {
		return err
	}
	server, err := ca.sign("kube-apiserver", nil, []string{"localhost", "kubernetes", "kubernetes.default.svc"}, apiServer, "127.0.0.1", "10.96.0.1")
	if err != nil {
		return err
	}
	kubelet, err := ca.sign("kube-apiserver-kubelet-client", []string{"system:masters"}, nil)
	if err != nil {
		return err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	accounts, err := keyPEM(signer)
	if err != nil {
		return err
	}
	caKey, err := keyPEM(ca.key)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": ca.pem(), "ca.key": caKey, "accounts.key": accounts,
		"server.crt": server.cert, "server.key": server.key, "kubelet.crt": kubelet.cert, "kubelet.key": kubelet.key,
	}
	for _, user := range []string{"kube-controller-manager", "kube-scheduler"} {
		if files[user+".kubeconfig"], err = ca.kubeconfig("system:" + user); err != nil {
			return err
		}
	}
	if err := writeFiles(c.path(Control, "upper", kubernetesDir), files); err != nil {
		return err
	}
	admin, err := ca.kubeconfig("admin", "system:masters")
	if err != nil {
		return err
	}
	role, err := configs.ReadFile("config/flannel-role.yaml")
	if err != nil {
		return err
	}
	return writeFiles(c.Dir, map[string][]byte{"admin.kubeconfig": admin, filepath.Join(Control, "flannel-role.yaml"): role})
}

// writeNode writes a node's files into its machine's root.
func (c *Cluster) writeNode(ca *authority, name, addr, proxy string) error {
	files := map[string][]byte{kubernetesDir + "ca.crt": ca.pem()}
	for user, as := range map[string][]string{
		"kubelet": {"system:node:" + name, "system:nodes"}, "kube-proxy": {"system:kube-proxy"}, "flannel": {"flannel"},
	} {
		text, err := ca.kubeconfig(as[0], as[1:]...)
		if err != nil {
			return err
		}
		files[kubernetesDir+user+".kubeconfig"] = text
	}
	for file, to := range map[string]string{
		"kubelet.yaml": kubernetesDir, "kube-proxy.yaml": kubernetesDir, "containerd.toml": "/etc/containerd/",
		"net-conf.json": "/etc/kube-flannel/", "cni.sh": kubernetesDir,
	} {
		text, err := configs.ReadFile("config/" + file)
		if err != nil {
			return err
		}
		files[to+file] = fill(text, name, addr, proxy)
	}
	files["/etc/machine-id"] = fmt.Appendf(nil, "%032x\n", name)
	files["/etc/hosts"] = fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", addr, name)
	files["/etc/resolv.conf"] = []byte("# no server: nothing is looked up\n")
	return writeFiles(c.path(name, "upper"), files)
}

func fill(text []byte, name, addr, proxy string) []byte {
	return []byte(strings.NewReplacer("@NODE@", name, "@ADDRESS@", addr, "@PROXY@", proxy, "@PODS@", podCIDR).Replace(string(text)))
}

// SetProxyMode makes kube-proxy of a node start anew in another mode. It takes the rules of the mode before away itself.
func (c *Cluster) SetProxyMode(ctx context.Context, node, mode string) error {
	text, err := configs.ReadFile("config/kube-proxy.yaml")
	if err != nil {
		return err
	}
	pid, err := c.PID(node)
	if err != nil {
		return err
	}
	// by way of the machine's own view: an overlay's upper folder is not to be written to while it is mounted
	file := fmt.Sprintf("/proc/%d/root%skube-proxy.yaml", pid, kubernetesDir)
	if err := os.WriteFile(file, fill(text, node, "", mode), 0o600); err != nil {
		return err
	}
	return c.Restart(ctx, node, "kube-proxy")
}

// Restart ends a program of a machine and waits until process 1 has started it again.
func (c *Cluster) Restart(ctx context.Context, machine, program string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	const script = `old=$(cat "$0"); kill "$old"; until [ "$(cat "$0")" != "$old" ]; do sleep 0.05; done`
	if out, err := c.Exec(ctx, machine, "sh", "-c", script, PIDFile(program)).CombinedOutput(); err != nil {
		return fmt.Errorf("restart %s of %s: %w: %s", program, machine, err, out)
	}
	return nil
}

// Signal sends a signal, by its name, to a program of a machine.
func (c *Cluster) Signal(ctx context.Context, machine, program, signal string) error {
	out, err := c.Exec(ctx, machine, "sh", "-c", "kill -"+signal+" $(cat "+PIDFile(program)+")").CombinedOutput()
	if err != nil {
		return fmt.Errorf("signal %s to %s of %s: %w: %s", signal, program, machine, err, out)
	}
	return nil
}

func controlProcesses() []process {
	k := kubernetesDir
	return []process{
		{Name: "etcd", Args: []string{"etcd", "--data-dir=/run/etcd", "--log-level=warn",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"}},
		{Name: "kube-apiserver", Args: []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
			"--bind-address=0.0.0.0", "--advertise-address=" + apiServer, "--secure-port=6443",
			"--tls-cert-file=" + k + "server.crt", "--tls-private-key-file=" + k + "server.key", "--client-ca-file=" + k + "ca.crt",
			"--kubelet-client-certificate=" + k + "kubelet.crt", "--kubelet-client-key=" + k + "kubelet.key",
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + k + "accounts.key",
			"--service-account-signing-key-file=" + k + "accounts.key", "--service-cluster-ip-range=" + serviceCIDR,
			"--authorization-mode=Node,RBAC", "--allow-privileged", "--feature-gates=SizeBasedListCostEstimate=false", "--enable-admission-plugins=NodeRestriction"}},
		{Name: "kube-controller-manager", Args: []string{"kube-controller-manager", "--kubeconfig=" + k + "kube-controller-manager.kubeconfig",
			"--leader-elect=false", "--use-service-account-credentials", "--allocate-node-cidrs", "--cluster-cidr=" + podCIDR, "--service-cluster-ip-range=" + serviceCIDR,
			"--service-account-private-key-file=" + k + "accounts.key", "--root-ca-file=" + k + "ca.crt",
			// quicker than the default of 50 s, for the sake of tests with a node that is not ready
			"--node-monitor-grace-period=12s", "--node-monitor-period=2s"}},
		{Name: "kube-scheduler", Args: []string{"kube-scheduler", "--kubeconfig=" + k + "kube-scheduler.kubeconfig", "--leader-elect=false"}},
	}
}

func nodeProcesses(name string, images []string) []process {
	k := kubernetesDir
	out := []process{
		{Name: "containerd", Args: []string{"containerd", "--config=/etc/containerd/containerd.toml"}},
		{Name: "kubelet", Args: []string{"kubelet", "--config=" + k + "kubelet.yaml", "--kubeconfig=" + k + "kubelet.kubeconfig", "--hostname-override=" + name}},
		{Name: "kube-proxy", Args: []string{"kube-proxy", "--config=" + k + "kube-proxy.yaml"}},
		{Name: "flanneld", Args: []string{"flanneld", "--kube-subnet-mgr", "--kubeconfig-file=" + k + "flannel.kubeconfig",
			"--ip-masq", "--iface=eth0"}, Env: []string{"NODE_NAME=" + name}},
		{Name: "cni", Once: true, Args: []string{"sh", k + "cni.sh"}},
	}
	for i, image := range images {
		out = append(out, process{Name: fmt.Sprintf("image%d", i), Once: true, Args: []string{
			"ctr", "--namespace=k8s.io", "images", "import", "/opt/e2e/" + filepath.Base(image)}})
	}
	return out
}
