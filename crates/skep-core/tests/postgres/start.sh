# A private PostgreSQL that lives exactly as long as this script's standard input is open. A pipe closes even when
# the process at its other end is killed, so nothing stays behind. Prints the directory of the server's socket.
set -e
# OPTIONS are given to the server, too.
# The server refuses to run as root.
[ "$(id -u)" = 0 ] && exec runuser -u postgres -- sh -c "$SCRIPT"
# Debian keeps the programs off the PATH. Of several versions the last one listed is taken.
for programs in /usr/lib/postgresql/*/bin; do PATH=$programs:$PATH; done
directory=$(mktemp -d)
cd "$directory"
trap 'pg_ctl -D data -m immediate stop >stop.log 2>&1; cd /; rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
initdb -D data -U postgres -A trust --no-sync >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
pg_ctl -D data -o "-k '$directory' -c listen_addresses='' $OPTIONS" -l server.log -w start >start.log 2>&1 ||
    { cat start.log server.log >&2; exit 1; }
echo "$directory"
cat >/dev/null
