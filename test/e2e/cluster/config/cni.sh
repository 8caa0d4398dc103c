# What flannel's CNI plugin makes of subnet.env when a pod starts: a bridge with these values, and portmap after it.
set -e
until [ -s /run/flannel/subnet.env ]; do sleep 0.1; done
. /run/flannel/subnet.env
mkdir -p /etc/cni/net.d
cat > /etc/cni/net.d/.new <<EOF
{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
   "mtu": $FLANNEL_MTU,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(echo "$FLANNEL_SUBNET" | sed 's/\.1\/24$/.0\/24/')"}]],
            "routes": [{"dst": "$FLANNEL_NETWORK"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
EOF
mv /etc/cni/net.d/.new /etc/cni/net.d/10-flannel.conflist
