# A private Redis that lives exactly as long as this script's standard input is open, with files of the caller's in its
# directory: their names are in FILES, their texts in FILE_name. It is configured by redis.conf, and a sentinel if
# MODE is --sentinel. Prints its directory. Then it does what each line says of its standard input and prints `done`.
set -e
umask 077
directory=$(mktemp -d)
cd "$directory"
pid=
trap 'kill -9 $pid 2>/dev/null; cd /; rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
for name in $FILES; do eval "printf '%s' \"\$FILE_$(echo "$name" | tr .- __)\"" >"$name"; done
start() {
    redis-server redis.conf $MODE --logfile server.log >start.log 2>&1 &
    pid=$!
    tries=0
    # With a password it answers, too.
    until redis-cli $REACHED ping 2>&1 | grep -q 'PONG\|NOAUTH\|LOADING\|MASTERDOWN'; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ] || ! kill -0 $pid 2>/dev/null; then cat start.log server.log >&2; exit 1; fi
        sleep 0.05
    done
}
command -v redis-server >/dev/null || exit 1
start
echo "$directory"
while read -r what; do
    case $what in
    kill)
        kill -9 $pid
        wait $pid 2>/dev/null || true
        ;;
    start) start ;;
    pause) kill -STOP $pid ;;
    resume) kill -CONT $pid ;;
    *) redis-cli $REACHED $what >&2 ;;
    esac
    echo done
done
