package kube

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels and annotations of agent pods.
const (
	LabelManagedBy    = "app.kubernetes.io/managed-by"
	LabelName         = "app.kubernetes.io/name"
	ManagedBy         = "podtrace"
	labelRun          = "podtrace.dev/run"  // of one command
	labelKeep         = "podtrace.dev/keep" // "true": other commands may use it, and nobody deletes it before its time
	annotationVersion = "podtrace.dev/version"
)

// Selector finds all agent pods.
const Selector = LabelManagedBy + "=" + ManagedBy

// Where things are in the image, and in an agent's container.
const (
	binary        = "/podtrace"
	containerName = "agent"
	runDir        = "/run/podtrace"
	// SessionFile is locked by every session of an agent pod: one that nobody has locked for a while ends.
	SessionFile = runDir + "/session"
)

// Environment of an agent pod.
const (
	EnvSession = "PODTRACE_SESSION_FILE"
)

// Times of an agent pod.
const (
	deadline     = 15 * time.Minute // of Options.Life
	deadlineKept = 2 * time.Hour
	idleFirst    = 60 * time.Second // until the first session
	idleNext     = 10 * time.Second // after the last
	stopGrace    = int64(1)         // seconds
)

// capabilities are what an agent needs instead of "privileged": to enter namespaces and read their tables
// (SYS_ADMIN, NET_ADMIN), to find those of other processes (SYS_PTRACE), to capture and probe (NET_RAW), and to ask for
// drop reasons (BPF, PERFMON).
var capabilities = []corev1.Capability{"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "BPF", "PERFMON"}

// podFor is the agent pod of a node.
func (o *Options) podFor(run, node string) *corev1.Pod {
	labels := map[string]string{LabelManagedBy: ManagedBy, LabelName: "podtrace-agent", labelRun: run}
	life, command := cmp.Or(o.Life, deadline), []string{binary, "agent", "--park", "--first", idleFirst.String(), "--idle", idleNext.String()}
	if o.Keep {
		labels[labelKeep] = "true"
		life, command = max(life, deadlineKept), []string{binary, "agent", "--park", "--idle", "0s"}
	}
	no, yes, root, seconds, grace := false, true, int64(0), int64(life.Seconds()), stopGrace
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: podName(run, node), Labels: labels,
			Annotations: map[string]string{annotationVersion: o.Version},
		},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: true, HostPID: true,
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			RestartPolicy:                 corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:         &seconds,
			TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			DNSPolicy:                     corev1.DNSDefault,
			SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}},
			Volumes: []corev1.Volume{{
				Name: "run", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
			}},
			Containers: []corev1.Container{{
				Name: containerName, Image: o.Image, ImagePullPolicy: o.PullPolicy, Command: command,
				Env:          []corev1.EnvVar{{Name: EnvSession, Value: SessionFile}, {Name: "GOMEMLIMIT", Value: "200MiB"}},
				VolumeMounts: []corev1.VolumeMount{{Name: "run", MountPath: runDir}},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("48Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
				},
				SecurityContext: &corev1.SecurityContext{
					RunAsUser: &root, Privileged: &no, ReadOnlyRootFilesystem: &yes,
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities},
				},
			}},
		},
	}
	for _, name := range o.PullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	return pod
}

// podName is a name for the agent of a node, no longer than a label may be. A long node name is cut and told apart by
// a hash.
func podName(run, node string) string {
	const most = 32
	short := strings.Trim(strings.ReplaceAll(node, ".", "-"), "-")
	if len(short) > most || short != node {
		sum := sha256.Sum256([]byte(node))
		short = strings.TrimRight(short[:min(len(short), most)], "-") + "-" + hex.EncodeToString(sum[:])[:6]
	}
	return "podtrace-" + run + "-" + short
}

// leftover reports whether an agent pod is of no use to anybody any more: it ended, or outlived its time.
func leftover(p *corev1.Pod, now time.Time) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	life := int64(deadlineKept.Seconds())
	if s := p.Spec.ActiveDeadlineSeconds; s != nil {
		life = *s
	}
	const slack = 5 * time.Minute
	return now.Sub(p.CreationTimestamp.Time) > time.Duration(life)*time.Second+slack
}

// usable reports whether a kept agent does for this command.
func (o *Options) usable(p *corev1.Pod) bool {
	return p.Labels[labelKeep] == "true" && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning &&
		p.Annotations[annotationVersion] == o.Version && len(p.Spec.Containers) == 1 && p.Spec.Containers[0].Image == o.Image
}

func quotedSeconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) + " s" }
