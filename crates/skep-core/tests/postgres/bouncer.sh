# A private PgBouncer that lives exactly as long as this script's standard input is open. Prints the directory of its
# socket.
set -e
# It refuses to run as root.
[ "$(id -u)" = 0 ] && exec runuser -u postgres -- sh -c "$SCRIPT"
PATH=$PATH:/usr/sbin
command -v pgbouncer >/dev/null || exit 1
umask 077
directory=$(mktemp -d)
cd "$directory"
for name in $FILES; do eval "printf '%s' \"\$FILE_$(echo "$name" | tr .- __)\"" >"$name"; done
pgbouncer -q pgbouncer.ini >start.log 2>&1 &
trap 'kill $!; wait; cd /; rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
tries=0
while [ ! -S .s.PGSQL.6432 ]; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ] || ! kill -0 $! 2>/dev/null; then cat start.log pgbouncer.log >&2; exit 1; fi
    sleep 0.1
done
chmod 755 "$directory"
echo "$directory"
cat >/dev/null
