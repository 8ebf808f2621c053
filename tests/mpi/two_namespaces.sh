#!/bin/sh
# SPDX-License-Identifier: MIT
#
# two_namespaces.sh MPIRUN RANKS PROGRAM: runs the ranks in two network namespaces, as on two machines, which reach each
# other by TCP over a pair of virtual Ethernet devices, and by nothing else. Needs root, iproute2 and Open MPI 4. Returns
# 77, which shows as skipped, where the machine does not allow it.
mpirun=$1 ranks=$2
shift 2
skip() {
  echo "skipped: $1"
  exit 77
}
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null && command -v unshare >/dev/null || skip "ip or unshare is missing"
"$mpirun" --version 2>/dev/null | grep -qE "(Open MPI|OpenRTE)\) 4\." || skip "mpirun is not that of Open MPI 4"

id=gma$$
agent=$(mktemp)
clean() {
  ip netns del ${id}a 2>/dev/null
  ip netns del ${id}b 2>/dev/null
  rm -f "$agent"
}
trap clean EXIT
trap 'exit 1' INT TERM
# 10.213.x.0/24, so that tests in parallel keep apart even in what they print.
net=10.213.$(($$ % 250))
{ ip netns add ${id}a && ip netns add ${id}b &&
  ip link add ${id}x netns ${id}a type veth peer name ${id}y netns ${id}b &&
  ip -n ${id}a addr add $net.1/24 dev ${id}x && ip -n ${id}b addr add $net.2/24 dev ${id}y &&
  ip -n ${id}a link set ${id}x up && ip -n ${id}b link set ${id}y up &&
  ip -n ${id}a link set lo up && ip -n ${id}b link set lo up; } 2>/dev/null || skip "no network namespaces here"

# mpirun would start its daemon on the second machine by ssh; this takes the place of ssh.
cat >"$agent" <<END
#!/bin/sh
shift
exec ip netns exec ${id}b unshare --uts sh -c "hostname ${id}b; \$*"
END
chmod +x "$agent"
ip netns exec ${id}a unshare --uts sh -c 'hostname "$1"; shift; exec "$@"' - ${id}a \
  "$mpirun" --mca plm_rsh_agent "$agent" --mca btl tcp,self --mca btl_tcp_if_include $net.0/24 \
  --mca oob_tcp_if_include $net.0/24 --host $net.1:8,$net.2:8 --map-by node -n "$ranks" "$@"
