# What the cases share; sourced. Each case runs as root, in a machine of its own, with the package installed.
# shellcheck shell=bash
set -euo pipefail
export LC_ALL=C

unit=azure-proxy-agent.service
logs=/var/log/azure-proxy-agent
keys=/var/lib/azure-proxy-agent/keys
imds='http://169.254.169.254/metadata/instance?api-version=2021-02-01'
wireserver='http://168.63.129.16/machine/?comp=goalstate'
hostga='http://168.63.129.16:32526/vmSettings'
host=http://127.0.0.1:9080
here=$(dirname "$(readlink -f "$0")")
state=/var/tmp/azure-proxy-agent-tests
# azure-proxy-agent, or azure-proxy-agent-minimal.
if [ -n "${AZURE_PROXY_AGENT_NEW:-}" ]; then
    package=$(dpkg-deb -f "$AZURE_PROXY_AGENT_NEW" Package)
else
    package=$(dpkg-query -S /usr/sbin/azure-proxy-agent | cut -d : -f 1)
fi
mkdir -p "$state"

# grep -q ends early, which pipefail would take for a failure of the one before.
has() { grep "$@" >/dev/null; }
say() { echo "  $*"; }
fail() {
    echo "FAILED: $*"
    exit 1
}
skip() {
    # Also from within $().
    echo "SKIPPED: $*" >&2
    exit 77
}

# Nobody is asked, and the agent is not started, unless the platform's addresses are this machine's own.
if ! [ -x /usr/lib/vm/guard ]; then skip "needs the simulated host of testdata/vm"; fi
[ "${AUTOPKGTEST_REBOOT_MARK:-}" = alone ] || /usr/lib/vm/guard || fail "the platform's addresses are not this machine's own"

# Runs a command as a user, until it succeeds or the seconds are over.
until_seconds() { # SECONDS COMMAND…
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
as() { # USER COMMAND…
    local user=$1
    shift
    setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@"
}
users() {
    for user in apa-authorized apa-unauthorized; do
        id "$user" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$user"
    done
}

# Asks as a user; prints the status of the answer. Headers of the answer are in $state/headers.
ask() { # USER URL
    as "$1" curl -sS -m 60 -o /dev/null -D - -w '%{http_code}\n' -H Metadata:true -H 'x-ms-version: 2012-11-30' "$2" >"$state/answer" || true
    sed '$d' "$state/answer" >"$state/headers"
    tail -n 1 "$state/answer"
}
answers() { # USER URL STATUS
    local got
    got=$(ask "$1" "$2")
    [ "$got" = "$3" ] || fail "$1 asked $2 and got $got, not $3"
    say "$1: $2: $got"
}
marked() { grep -qi '^x-ms-azure-host-authorization:' "$state/headers"; }

# The simulated host's own switch.
control() { # METHOD PATH [BODY]
    curl -sS -m 20 -X "$1" ${3:+--data-binary "$3"} "$host$2"
}
# Evaluates a Python expression over a JSON text on standard input, as `v`.
json() { python3 -c 'import json,sys; v = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }
# The same over JSON lines, as list `v`.
lines() { python3 -c 'import json,sys; v = [json.loads(l) for l in sys.stdin if l.startswith("{")]; print(eval(sys.argv[1]))' "$1"; }
received() { control GET /requests | json "$1"; }
audited() { cat $logs/audit.jsonl | lines "$1"; }

# Ready, as cloud-init asks.
ready() {
    local said status=0
    said=$(azure-proxy-agent --status --wait "${1:-120}" 2>&1) || status=$?
    [ $status = 0 ] || fail "azure-proxy-agent --status --wait ${1:-120}: exit status $status: $said"
}

# Rules in force on IMDS and WireServer: one user for the one, root for both, nobody else. Waits until the agent has them.
rules() {
    users
    control POST /rules '{
      "imds": {"defaultAccess": "deny", "mode": "enforce", "id": "case-imds", "rules": {
        "privileges": [{"name": "instance", "path": "/metadata/instance"}],
        "roles": [{"name": "readers", "privileges": ["instance"]}],
        "identities": [{"name": "the authorized user", "userName": "apa-authorized"}, {"name": "root", "userName": "root"}],
        "roleAssignments": [{"role": "readers", "identities": ["the authorized user", "root"]}]}},
      "wireserver": {"defaultAccess": "deny", "mode": "enforce", "id": "case-wireserver", "rules": {
        "privileges": [{"name": "goal state", "path": "/machine"}],
        "roles": [{"name": "agents", "privileges": ["goal state"]}],
        "identities": [{"name": "root", "userName": "root"}],
        "roleAssignments": [{"role": "agents", "identities": ["root"]}]}}}' >/dev/null
    systemctl reload $unit 2>/dev/null || true
    until_seconds 60 has_rules || fail "the agent does not take the host's rules"
}
has_rules() { grep -q '"imdsRuleId": "case-imds"' $logs/status.json; }

# The documented check: it runs, and the journal has no errors. Since this boot, or since a time.
running() { # [SINCE]
    local since=${1:-} pid errors denied
    ready
    [ "$(systemctl is-enabled $unit)" = enabled ] || fail "CLI-34: the service is not enabled"
    [ "$(systemctl is-active $unit)" = active ] || fail "CLI-34: the service is not active"
    pid=$(systemctl show -P MainPID $unit)
    [ "$(readlink "/proc/$pid/exe")" = /usr/sbin/azure-proxy-agent ] || fail "it runs $(readlink "/proc/$pid/exe")"
    # Since there is a redirector: who parses HTTP may nothing (FS-96).
    if [ -e /usr/lib/systemd/system/azure-proxy-agent-redirector.service ]; then
        grep -q '^CapPrm:[[:space:]]*0000000000000000$' "/proc/$pid/status" || fail "FS-96: the agent has capabilities: $(grep Cap "/proc/$pid/status")"
        [ "$(systemctl is-active azure-proxy-agent-redirector.service)" = active ] || fail "the redirector does not run"
    fi
    # shellcheck disable=SC2086
    errors=$(journalctl -b -q -u $unit -u azure-proxy-agent.socket \
        -u azure-proxy-agent-redirector.service -p err ${since:+--since "$since"} --no-pager)
    [ -z "$errors" ] || fail "errors in the journal:
$errors"
    # What AppArmor, the system call filter or the kernel had to refuse; in the kernel's log, or that of the audit subsystem.
    denied=$(journalctl -b -q ${since:+--since "$since"} --no-pager _TRANSPORT=kernel + _TRANSPORT=audit |
        grep -E 'azure-proxy' | grep -E 'apparmor="DENIED"|SECCOMP|type=1326|segfault|oom' || true)
    [ -z "$denied" ] || fail "the kernel refused something:
$denied"
    until_seconds 70 fresh || fail "CLI-35: status.json does not say SUCCESS: $(cat $logs/status.json)"
    say "active as $pid, no errors in the journal, status SUCCESS"
}
fresh() { [ "$(json 'v["proxyAgentStatus"]["status"]' <$logs/status.json)" = SUCCESS ]; }

# The two calls of the documented cases, both of them decided.
intercepted() {
    answers apa-authorized "$imds" 200
    marked || fail "W-69: the answer does not say that the agent vouched for it"
    answers root "$wireserver" 200
    marked || fail "W-69: the answer does not say that the agent vouched for it"
    answers apa-unauthorized "$imds" 403
    answers apa-unauthorized "$wireserver" 403
}

new_package() {
    [ -n "${AZURE_PROXY_AGENT_NEW:-}" ] || skip "AZURE_PROXY_AGENT_NEW names no package"
    echo "$AZURE_PROXY_AGENT_NEW"
}
old_package() {
    [ -n "${AZURE_PROXY_AGENT_OLD:-}" ] || skip "AZURE_PROXY_AGENT_OLD names no package"
    echo "$AZURE_PROXY_AGENT_OLD"
}
installed() { dpkg-query -W -f '${Version}' "$package"; }
state_of_package() { dpkg-query -W -f '${Status}' "$package" 2>/dev/null || echo none; }
version_of() { dpkg-deb -f "$1" Version; }
install_package() { # FILE
    DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$1" >"$state/dpkg" 2>&1 || {
        cat "$state/dpkg"
        fail "dpkg -i $1"
    }
    [ "$(installed)" = "$(version_of "$1")" ] || fail "installed is $(installed)"
    say "installed: $(installed)"
}

# Clients that ask all the time, until stopped; then none of their requests may be lost.
load_start() {
    rm -f "$state/load.stop" "$state/load.json"
    control DELETE /requests >/dev/null
    python3 "$here/load.py" "$state/load.stop" apa-authorized >"$state/load.json" 2>"$state/load.err" &
    load=$!
    until_seconds 60 loaded || fail "the clients do not get going: $(cat "$state/load.err")"
}
loaded() { [ "$(received 'sum("by=" in r["target"] for r in v)')" -gt 20 ]; }
load_stop() {
    touch "$state/load.stop"
    wait $load || fail "the clients failed: $(cat "$state/load.err")"
    say "load: $(cat "$state/load.json")"
    [ "$(json 'v["lost"]' <"$state/load.json")" = 0 ] || fail "requests were lost: $(cat "$state/load.json")"
    [ "$(json 'v["served"] > 20' <"$state/load.json")" = True ] || fail "hardly anybody asked: $(cat "$state/load.json")"
    # Each signed, and each in the audit log once.
    [ "$(received 'sum("by=" in r["target"] and r["verified"] != "signed" for r in v)')" = 0 ] || fail "some reached the host unsigned"
    until_seconds 20 all_audited || fail "the audit log has $(by_load) of these requests"
}
by_load() { cat $logs/audit.jsonl | lines 'len({r["url"] for r in v if "by=" in r.get("url", "")})'; }
all_audited() { [ "$(by_load)" = "$(json 'v["served"]' <"$state/load.json")" ]; }

key() { control GET /keys | json 'v["current"]'; }

# Ends this part of a case; it goes on with AUTOPKGTEST_REBOOT_MARK set.
reboot_to() { # MARK
    sync
    /tmp/autopkgtest-reboot "$1"
}
