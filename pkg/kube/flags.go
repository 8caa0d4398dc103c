package kube

import (
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/homedir"
)

// Flags are kubectl's flags for a connection: client-go's, and those few that cli-runtime adds to them.
type Flags struct {
	Namespace string // "": that of the context

	kubeconfig string
	extra      []string // KEY=VALUE
	overrides  clientcmd.ConfigOverrides
	loaded     clientcmd.ClientConfig
}

// Add gives a command the flags; most of them are hidden, for they are too many to show with every command.
func (f *Flags) Add(fs *pflag.FlagSet) {
	kube := pflag.NewFlagSet("", pflag.ContinueOnError)
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.AuthOverrideFlags.Username.LongName, names.AuthOverrideFlags.Password.LongName = "", "" // no API server takes them any more
	names.ClusterOverrideFlags.APIServer.ShortName = "s"
	names.ContextOverrideFlags.Namespace.LongName = ""
	clientcmd.BindOverrideFlags(&f.overrides, kube, names)
	kube.StringArrayVar(&f.extra, "as-user-extra", nil, "KEY=VALUE to impersonate for the operation, this flag can be repeated")
	// what kubectl keeps there, the list of all kinds, is never asked for
	kube.String("cache-dir", filepath.Join(homedir.HomeDir(), ".kube", "cache"), "Default cache directory")
	kube.VisitAll(func(flag *pflag.Flag) { flag.Hidden = true })
	kube.StringVar(&f.kubeconfig, clientcmd.RecommendedConfigPathFlag, "", "Path to the kubeconfig file to use for CLI requests.")
	kube.StringVarP(&f.Namespace, clientcmd.FlagNamespace, "n", "", "namespace of objects that are named without one (default: the context's)")
	context := kube.Lookup(clientcmd.FlagContext)
	context.Hidden, context.Usage = false, "context of the kubeconfig; kubectl's other flags for a connection work too (kubectl options)"
	fs.AddFlagSet(kube)
}

// config is what the kubeconfig and the flags say; nothing is read yet.
func (f *Flags) config() clientcmd.ClientConfig {
	if f.loaded != nil {
		return f.loaded
	}
	f.overrides.Context.Namespace = f.Namespace
	for _, s := range f.extra {
		if key, value, ok := strings.Cut(s, "="); ok {
			if f.overrides.AuthInfo.ImpersonateUserExtra == nil {
				f.overrides.AuthInfo.ImpersonateUserExtra = make(map[string][]string)
			}
			f.overrides.AuthInfo.ImpersonateUserExtra[key] = append(f.overrides.AuthInfo.ImpersonateUserExtra[key], value)
		}
	}
	// as kubectl does where nothing is configured: $KUBERNETES_MASTER, or port 8080 of this machine
	f.overrides.ClusterDefaults = clientcmd.ClusterDefaults
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.DefaultClientConfig = &clientcmd.DefaultClientConfig
	rules.ExplicitPath = f.kubeconfig
	f.loaded = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &f.overrides)
	return f.loaded
}
