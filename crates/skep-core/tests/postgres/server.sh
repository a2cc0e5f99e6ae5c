# A private PostgreSQL, as in start.sh, with files of the caller's in the directory of its data: their names are in
# FILES, their texts in FILE_name. It is a standby of the server at PRIMARY, if there is that. Prints the directory of its socket. Then it does what each line says of its
# standard input and prints `done`.
set -e
[ "$(id -u)" = 0 ] && exec runuser -u postgres -- sh -c "$SCRIPT"
for programs in /usr/lib/postgresql/*/bin; do PATH=$programs:$PATH; done
umask 077
directory=$(mktemp -d)
cd "$directory"
trap 'pg_ctl -D data -m immediate stop >stop.log 2>&1; cd /; rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
write() { for name in $FILES; do eval "printf '%s' \"\$FILE_$(echo "$name" | tr .- __)\"" >"data/$name"; done; }
server() { pg_ctl -D data -o "-k '$directory'" -l server.log -w "$@" >control.log 2>&1 || { cat control.log server.log >&2; exit 1; }; }
if [ "$PRIMARY" ]; then
    pg_basebackup -D data -R --checkpoint=fast --no-sync -d "$PRIMARY" >make.log 2>&1 || { cat make.log >&2; exit 1; }
else
    initdb -D data -U postgres -A trust --no-sync >make.log 2>&1 || { cat make.log >&2; exit 1; }
fi
write
echo "include_if_exists 'more.conf'" >>data/postgresql.conf
server start
chmod 755 "$directory"
echo "$directory"
# A signal to all processes of the server.
signal() {
    postmaster=$(head -n 1 data/postmaster.pid)
    all="$postmaster $(cat "/proc/$postmaster/task/$postmaster/children")"
    kill "$1" $all 2>/dev/null || true
}
# They may stay as zombies, which the next server must not take for itself running.
kill_all() {
    signal -KILL
    for process in $all; do
        while grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$process/status"; do sleep 0.01; done
    done
    rm -f data/postmaster.pid
}
while read -r what; do
    case $what in
    kill) kill_all ;;
    pause) signal -STOP ;;
    resume) signal -CONT ;;
    stop) server -m immediate stop ;;
    restart) server -m immediate restart ;;
    log) cat server.log >&2 ;;
    *) server "$what" ;;
    esac
    echo done
done
