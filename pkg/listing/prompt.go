package listing

import (
	"regexp"
	"strings"
)

// prompt is a line on which somebody typed a command.
type prompt struct {
	host    string // "" where the prompt does not say
	command string // "" for an empty line
}

// prompts are the shapes that shells are delivered with. The first group that is named host, and cmd.
var prompts = []pattern{
	lazy(`^\s*\[[\w.-]+@(?P<host>[\w.-]+)[ :][^\]]*\]\s*[#$]\s*(?P<cmd>.*)$`),                    // [root@node1 ~]# (RHEL)
	lazy(`^\s*(?:\([\w.-]+\)\s*)?[\w.-]+@(?P<host>[\w.-]+):[^\s#$]*\s*[#$](?:\s+(?P<cmd>.*))?$`), // root@node1:~# (Debian)
	lazy(`^\s*[\w.-]+@(?P<host>[\w.-]+)\s+[#$%]\s+(?P<cmd>.*)$`),                                 // root@node1 #
	lazy(`^\s*(?:bash|sh|ash|zsh)-[\d.]+[#$](?:\s+(?P<cmd>.*))?$`),                               // bash-5.1#
	lazy(`^\s*➜\s+\S+\s+(?:git:\(\S*\)\s+)?(?:✗\s+)?(?P<cmd>.*)$`),                               // oh-my-zsh
	lazy(`^\s*(?:/|~)[\w./-]*\s+[#$](?:\s+(?P<cmd>.*))?$`),                                       // / # (busybox)
}

// barePrompts are prompts only in front of a command that is known: "# ip route" is one, "# routes" a comment.
var barePrompts = []pattern{
	lazy(`^\s*(?P<host>[\w.-]+)\s+[#$]\s+(?P<cmd>\S.*)$`),
	lazy(`^\s*[#$%>]\s*(?P<cmd>\S.*)$`),
}

// parsePrompt tells a line with a prompt from any other.
func parsePrompt(s string) (prompt, bool) {
	for _, p := range prompts {
		re := p()
		if m := re.FindStringSubmatch(s); m != nil {
			return promptOf(re, m), true
		}
	}
	for _, p := range barePrompts {
		re := p()
		if m := re.FindStringSubmatch(s); m != nil {
			if p := promptOf(re, m); startsCommand(p.command) {
				return p, true
			}
		}
	}
	return prompt{}, false
}

func promptOf(re *regexp.Regexp, m []string) prompt {
	var p prompt
	if i := re.SubexpIndex("host"); i > 0 {
		p.host = m[i]
	}
	if i := re.SubexpIndex("cmd"); i > 0 {
		p.command = strings.TrimSpace(m[i])
	}
	return p
}

// tools are the commands whose outputs are read, and those that run them elsewhere.
var tools = map[string]bool{
	"ip": true, "bridge": true, "brctl": true, "route": true, "netstat": true, "arp": true, "ifconfig": true,
	"ethtool": true, "tc": true, "iptables": true, "ip6tables": true, "iptables-save": true, "ip6tables-save": true,
	"iptables-legacy": true, "iptables-nft": true, "ip6tables-legacy": true, "ip6tables-nft": true,
	"iptables-legacy-save": true, "iptables-nft-save": true, "ip6tables-legacy-save": true, "ip6tables-nft-save": true,
	"nft": true, "conntrack": true, "ipvsadm": true, "sysctl": true, "kubectl": true, "docker": true, "crictl": true, "nsenter": true,
	"sudo": true, "oc": true, "podman": true,
}

// startsCommand reports whether a text looks like the command line of a known tool: the tool's name, then
// words and no sentence.
func startsCommand(s string) bool {
	w := wordsOf(s)
	if len(w) == 0 || !tools[baseName(w[0])] {
		return false
	}
	for _, r := range s {
		if r > 0x7f { // prose that begins with the name of a tool
			return false
		}
	}
	return len(w) == 1 || !strings.HasPrefix(w[1], "is") && w[1] != "的"
}

func baseName(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }
