"""Starts and stops a Rucio server of one's own: PostgreSQL, memcached and gunicorn, on 127.0.0.1, below one folder.

Called by scripts/rucio-up and scripts/rucio-down, which say what the arguments are. Needs the standard library only.
"""
import argparse
import contextlib
import ctypes
import fcntl
import glob
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SERVICES = ('gunicorn', 'memcached', 'postgres')  # in the order of their ends


class Failed(Exception):
    """What the user is told, without a traceback."""


class Missing(Failed):
    """A program is not installed: exit status 3."""


def began(pid):
    """When a process began, in clock ticks since boot (proc_pid_stat(5)); None when it is gone. With the pid it names one process."""
    try:
        with open(f'/proc/{pid}/stat') as f:
            fields = f.read().rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] == 'Z' else fields[19]


def running(root, name):
    """The pid of what was started as name, None when it has ended."""
    try:
        with open(f'{root}/run/{name}.pid') as f:
            pid, when = f.read().split()
    except (OSError, ValueError):
        return None
    return int(pid) if began(pid) == when else None


def until(seconds, what, done, proc=None, log=''):
    """Waits for done(), and fails with the end of the log when it takes too long or proc ends."""
    end = time.monotonic() + seconds
    while not done():
        ended = proc is not None and proc.poll() is not None
        if ended or time.monotonic() > end:
            tail = ''
            with contextlib.suppress(OSError), open(log, errors='replace') as f:
                tail = '; its log ends with:\n' + f.read()[-3000:]
            raise Failed(f'{what} {"ended" if ended else "does not serve"}{tail}')
        time.sleep(0.05)


def accepts(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(('127.0.0.1', port)) == 0


def free_ports(n):
    """Ports that nobody listens at, below those that the kernel gives to others, since they are free again until our services listen."""
    ports = []
    while len(ports) < n:
        port = random.SystemRandom().randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(('127.0.0.1', port)):
            if port not in ports:
                ports.append(port)
    return ports


def program(name, package, *places):
    for p in places:
        found = sorted(glob.glob(p), key=lambda f: [int(d) if d.isdigit() else 0 for d in f.split('/')])
        if found:
            return found[-1]
    found = shutil.which(name)
    if not found:
        raise Missing(f'{name} is not installed (Debian: package {package})')
    return found


class Instance:
    """What lives below one folder."""

    def __init__(self, o):
        self.o, self.root, self.procs = o, o.dir, {}
        self.venv = o.venv
        # PostgreSQL refuses to run as root.
        self.db_user = None
        if os.geteuid() == 0:
            for name in ('postgres', 'nobody'):
                with contextlib.suppress(KeyError):
                    self.db_user = pwd.getpwnam(name)
                    break

    # What is in the folder.

    def prepare(self):
        os.makedirs(self.root, mode=0o755, exist_ok=True)
        if os.stat(self.root).st_uid != os.geteuid():
            raise Failed(f'{self.root} is somebody else\'s')
        for d in ('run', 'log', 'etc', 'server/etc', 'bin', 'rse'):
            os.makedirs(f'{self.root}/{d}', exist_ok=True)
        os.chmod(f'{self.root}/server', 0o700)
        known = f'{self.root}/run/instance.json'
        want = {'version': self.o.version, 'policy': self.o.policy, 'tls': self.o.tls}
        if os.path.exists(known):
            with open(known) as f:
                self.state = json.load(f)
            is_ = {k: self.state[k] for k in want}
            if is_ != want:
                raise Failed(f'{self.root} is of Rucio {is_["version"]} with policy {is_["policy"]}, {"with" if is_["tls"] else "without"} TLS: use another folder, or rucio-down --remove {self.root}')
        else:
            self.state = dict(want, secret=secrets.token_hex(16))
        if not any(running(self.root, s) for s in SERVICES):
            self.state['ports'] = dict(zip(('http', 'postgres', 'memcached'), free_ports(3)))
        tls = self.tls()
        self.url = f'{"https" if tls else "http"}://{"localhost" if tls else "127.0.0.1"}:{self.state["ports"]["http"]}'
        self.save()

    def save(self):
        with open(f'{self.root}/run/instance.json.new', 'w', opener=private) as f:
            json.dump(self.state, f)
        os.replace(f.name, f'{self.root}/run/instance.json')

    def tls(self):
        """Certificate, key and authorities of the server, None when it speaks plain HTTP."""
        if not self.o.tls:
            return None
        names = [self.o.cert, self.o.key, self.o.ca]
        if any(names) and not all(names):
            raise Failed('--cert, --key and --ca go together')
        if all(names):
            return names
        names = [f'{self.root}/etc/hostcert.pem', f'{self.root}/etc/hostkey.pem', f'{self.root}/etc/ca.pem']
        if not all(map(os.path.exists, names)):
            certificates(f'{self.root}/etc')
        return names

    def write(self, name, text, mode=0o644):
        path = f'{self.root}/{name}'
        with open(path + '.new', 'w', opener=private) as f:
            f.write(text)
        os.chmod(path + '.new', mode)
        os.replace(path + '.new', path)

    def configure(self):
        ports, tls = self.state['ports'], self.tls()
        site = glob.glob(f'{self.venv}/lib/python3*/site-packages/rucio')[0]
        db = f'postgresql+psycopg://rucio:{self.state["secret"]}@127.0.0.1:{ports["postgres"]}/rucio'
        policy = {'permission': 'generic', 'schema': 'generic', 'lfn2pfn_algorithm_default': 'hash', 'support': 'https://rucio.cern.ch/'}
        common = {'logdir': f'{self.root}/log', 'loglevel': 'INFO', 'mailtemplatedir': f'{self.venv}/rucio/etc/mail_templates'}
        if self.o.policy == 'ctao':
            policy = {'package': 'bdms_rucio_policy', 'lfn2pfn_algorithm_default': 'ctao_bdms', 'support': 'https://rucio.cern.ch/'}
            common['extract_scope'] = 'ctao_bdms'
        client = {'rucio_host': self.url, 'auth_host': self.url, 'auth_type': 'userpass', 'request_retries': '3'}
        if tls:
            client['ca_cert'] = tls[2]
        root = dict(client, username='root', password=self.o.password, account='root')
        user = dict(client, username=self.o.user, password=self.o.password, account=self.o.user)
        server = {
            'common': common,
            'client': root,
            'database': {'default': db, 'schema': 'dev', 'echo': '0', 'pool_reset_on_return': 'rollback', 'pool_size': '8', 'max_overflow': '8', 'pool_timeout': '30'},
            'bootstrap': {'userpass_identity': 'root', 'userpass_pwd': self.o.password, 'userpass_email': 'root@localhost',
                          'x509_identity': '', 'gss_identity': '', 'ssh_identity': ''},
            'alembic': {'cfg': f'{self.root}/server/etc/alembic.ini'},
            'policy': policy,
            'monitor': {'carbon_server': '127.0.0.1', 'enable_metrics': 'False'},
            'cache': {'url': f'127.0.0.1:{ports["memcached"]}'},
            'conveyor': {'scheme': 'file,root,roots,davs,dav,https,http,gsiftp,ftp,s3,s3s,mock', 'transfertool': 'mover', 'use_deterministic_id': 'True'},
            'api': {'endpoints_add': 'archives'},
        }
        self.write('server/etc/rucio.cfg', ini(server), 0o600)
        self.write('server/etc/alembic.ini', ini({'alembic': {'script_location': f'{site}/db/sqla/migrate_repo', 'sqlalchemy.url': db, 'version_table_schema': 'dev'}}) + LOGGING, 0o600)
        # The clients' have no section database, by which Rucio's modules tell that they are clients.
        plain = {'common': {k: v for k, v in common.items() if k == 'extract_scope'}, 'policy': policy}
        self.write('etc/rucio.cfg', ini(dict(plain, client=root)))
        self.write('etc/user.cfg', ini(dict(plain, client=user)))
        env = {'RUCIO_HOME': self.root, 'RUCIO_URL': self.url, 'RUCIO_CA': tls[2] if tls else '', 'RUCIO_VERSION': self.o.version, 'RUCIO_POLICY': self.o.policy,
               'RUCIO_PORT': ports['http'], 'RUCIO_POSTGRES_PORT': ports['postgres'], 'RUCIO_MEMCACHED_PORT': ports['memcached'],
               'RUCIO_VENV': self.venv, 'RUCIO_USER': self.o.user, 'RUCIO_PASSWORD': self.o.password}
        self.write('env', ''.join(f"export {k}='{v}'\n" for k, v in env.items()) + f"case :$PATH: in *:{self.root}/bin:*) ;; *) PATH='{self.root}/bin':$PATH ;; esac\n", 0o600)
        for tool in ('rucio', 'rucio-admin'):
            self.write(f'bin/{tool}', f'#!/bin/sh\n: "${{RUCIO_HOME:={self.root}}}"\nexport RUCIO_HOME\nexec {self.venv}/bin/python -W ignore {self.venv}/bin/{tool} "$@"\n', 0o755)
        serve = {'RUCIO_HOME': f'{self.root}/server', 'RUCIO_ROOT': self.root, 'RUCIO_TRY_POLICY': self.o.policy, 'RUCIO_TRY_USER': self.o.user, 'RUCIO_TRY_PASSWORD': self.o.password, 'RUCIO_TRY_RSES': self.o.rses,
                 'RUCIO_SLASHES': self.o.slashes or ('fold' if self.o.policy == 'ctao' else 'keep'),
                 'RUCIO_BIND': f'127.0.0.1:{ports["http"]}',
                 'RUCIO_CERT': tls[0] if tls else '', 'RUCIO_KEY': tls[1] if tls else '', 'RUCIO_CA': tls[2] if tls else ''}
        unset = 'unset RUCIO_CONFIG RUCIO_ACCOUNT RUCIO_AUTH_TYPE RUCIO_CLIENT_MODE RUCIO_VO\n'  # a client's
        python = f'exec {self.venv}/bin/python -W ignore'
        # With LISTEN_FDS in its environment it serves there, in systemd's way (sd_listen_fds(3)).
        self.write('bin/serve', '#!/bin/sh\n[ -z "$LISTEN_FDS" ] || export LISTEN_PID=$$\n' + unset + ''.join(f"export {k}='{v}'\n" for k, v in serve.items()) +
                   f'cd {HERE} && {python} {self.venv}/bin/gunicorn -c {HERE}/gunicorn.conf.py app:application\n', 0o755)
        self.write('bin/rucio-daemons', f"#!/bin/sh\n{unset}export RUCIO_HOME='{self.root}/server'\n{python} {HERE}/daemons.py \"$@\"\n", 0o755)

    # What runs.

    def spawn(self, name, args, log=None, user=None, die=signal.SIGTERM, **kw):
        """Starts a service; in the foreground it ends with us, whatever becomes of us."""
        hold, me = self.o.foreground, os.getpid()

        def child():
            if hold:
                ctypes.CDLL(None).prctl(1, die)  # PR_SET_PDEATHSIG; after the change of user, which would clear it
                if os.getppid() != me:
                    os._exit(1)
        kw['env'] = dict(kw.get('env', os.environ), RUCIO_ROOT=self.root)  # by which one sees whose it is
        if user:
            kw.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        with open(log or f'{self.root}/log/{name}', 'ab') as out:
            p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, preexec_fn=child, cwd='/', **kw)
        self.procs[name] = p
        self.write(f'run/{name}.pid', f'{p.pid} {began(p.pid)}\n')
        return p

    def postgres(self):
        bin_ = os.path.dirname(program('postgres', 'postgresql', '/usr/lib/postgresql/*/bin/postgres'))
        data, port, log = f'{self.root}/postgres', self.state['ports']['postgres'], f'{self.root}/log/postgres'
        drop = dict(user=self.db_user.pw_uid, group=self.db_user.pw_gid, extra_groups=[]) if self.db_user else {}
        env = {'PATH': os.environ['PATH'], 'LC_ALL': 'C.UTF-8', 'PGPASSWORD': self.state['secret'], 'HOME': self.root}
        ready = os.path.exists(f'{self.root}/run/ready')
        if not ready:
            shutil.rmtree(data, ignore_errors=True)  # half made
            os.mkdir(data, 0o700)
            password = f'{self.root}/run/pwfile'
            self.write('run/pwfile', self.state['secret'] + '\n', 0o600)
            if self.db_user:
                os.chown(data, self.db_user.pw_uid, self.db_user.pw_gid)
                os.chown(password, self.db_user.pw_uid, self.db_user.pw_gid)
            r = subprocess.run([f'{bin_}/initdb', '-D', data, '-U', 'rucio', '-A', 'scram-sha-256', f'--pwfile={password}', '-E', 'UTF8', '--no-sync', '--no-instructions'],
                               env=env, cwd='/', capture_output=True, text=True, **drop)
            os.remove(password)
            if r.returncode:
                raise Failed(f'initdb: {r.stdout}{r.stderr}\n(is every folder above {self.root} open to the user {self.db_user.pw_name if self.db_user else "itself"}?)')
        # Nothing here has to outlive a power cut. No segment of shared memory is left by a kill.
        p = self.spawn('postgres', [f'{bin_}/postgres', '-D', data, '-p', str(port), '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=',
                                    '-c', 'fsync=off', '-c', 'full_page_writes=off', '-c', 'synchronous_commit=off', '-c', 'dynamic_shared_memory_type=mmap',
                                    '-c', 'max_connections=100', '-c', 'shared_buffers=64MB', '-c', 'timezone=UTC'],
                       user=self.db_user, die=signal.SIGINT, env=env)
        until(30, 'PostgreSQL', lambda: accepts(port), p, log)
        if not ready:
            made = lambda: subprocess.run([f'{bin_}/createdb', '-h', '127.0.0.1', '-p', str(port), '-U', 'rucio', 'rucio'], env=env, capture_output=True, text=True)
            until(30, 'createdb', lambda: 'already exists' in (r := made()).stderr or r.returncode == 0, p, log)

    def memcached(self):
        user = ['-u', 'nobody'] if os.geteuid() == 0 else []
        port = self.state['ports']['memcached']
        p = self.spawn('memcached', [program('memcached', 'memcached'), '-l', '127.0.0.1', '-p', str(port), '-U', '0', '-m', '64', '-t', '2', *user])
        until(30, 'memcached', lambda: accepts(port), p, f'{self.root}/log/memcached')

    def gunicorn(self):
        return self.spawn('gunicorn', [f'{self.root}/bin/serve'], env={k: v for k, v in os.environ.items() if k != 'LISTEN_FDS'})

    def answers(self):
        context = None
        if self.o.tls:
            context = ssl.create_default_context(cafile=self.tls()[2])
        try:
            with urllib.request.urlopen(self.url + '/ping', timeout=5, context=context) as r:
                return r.status == 200
        except OSError:
            return False

    def start(self):
        started = False
        self.prepare()
        self.configure()
        try:
            for name in ('memcached', 'postgres', 'gunicorn'):  # Rucio looks at its import for the other two
                if not running(self.root, name) and not (name == 'gunicorn' and self.o.no_server):
                    started = True
                    getattr(self, name)()
            if not self.o.no_server:
                until(120, 'gunicorn', self.answers, self.procs.get('gunicorn'), f'{self.root}/log/gunicorn')
        except BaseException:
            if started:
                stop(self.root)
            raise
        return started


def private(path, flags):
    return os.open(path, flags, 0o600)


LOGGING = '''
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = WARN
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = %(levelname)s %(name)s %(message)s
'''


def ini(sections):
    return ''.join(f'[{s}]\n' + ''.join(f'{k} = {str(v).replace("%", "%%")}\n' for k, v in kv.items()) + '\n' for s, kv in sections.items())


def certificates(etc):
    """An authority, and a certificate of localhost by it, for a try."""
    run = lambda *a: subprocess.run(['openssl', *a], check=True, capture_output=True)
    try:
        run('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30', '-subj', '/O=tarn/CN=Rucio try CA', '-keyout', f'{etc}/cakey.pem', '-out', f'{etc}/ca.pem')
        run('req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/O=tarn/CN=localhost', '-keyout', f'{etc}/hostkey.pem', '-out', f'{etc}/host.csr')
        with open(f'{etc}/host.ext', 'w') as f:
            f.write('subjectAltName=DNS:localhost,IP:127.0.0.1\n')
        run('x509', '-req', '-in', f'{etc}/host.csr', '-CA', f'{etc}/ca.pem', '-CAkey', f'{etc}/cakey.pem', '-CAcreateserial', '-days', '30', '-extfile', f'{etc}/host.ext', '-out', f'{etc}/hostcert.pem')
    except FileNotFoundError:
        raise Missing('openssl is not installed: give --cert, --key and --ca') from None
    except subprocess.CalledProcessError as e:
        raise Failed(f'openssl: {e.stderr.decode()}') from None
    os.chmod(f'{etc}/hostkey.pem', 0o600)
    os.chmod(f'{etc}/cakey.pem', 0o600)


def stop(root):
    """Ends what its pid files name, and nothing else; those of the same session go with it."""
    for name in SERVICES:
        pid = running(root, name)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGCONT)
                os.kill(pid, {'postgres': signal.SIGINT, 'gunicorn': signal.SIGQUIT}.get(name, signal.SIGTERM))  # the fast ways
            end = time.monotonic() + 10
            while running(root, name):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if time.monotonic() > end:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    end += 10
                time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            os.remove(f'{root}/run/{name}.pid')


def remove(root):
    """Removes the folder of an instance, and no other."""
    if not os.path.exists(f'{root}/run/instance.json'):
        raise Failed(f'{root} is no folder of rucio-up: not removed')
    shutil.rmtree(root)


@contextlib.contextmanager
def locked(root):
    os.makedirs(f'{root}/run', exist_ok=True)
    with open(f'{root}/run/lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def up(o):
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: sys.exit(1))
    inst = Instance(o)
    with locked(o.dir):
        began_ = time.monotonic()
        started = inst.start()
    took = f'ready after {time.monotonic() - began_:.1f} s' if started else 'runs already'
    print(f'rucio-up: Rucio {o.version} ({o.policy}) at {inst.url} {took}: . {o.dir}/env', flush=True)
    if not o.foreground:
        return
    try:
        while True:
            if not os.read(0, 4096):
                break
    except SystemExit:
        pass
    finally:
        stop(o.dir)
        if o.remove:
            remove(o.dir)


def main():
    what = sys.argv.pop(1)
    p = argparse.ArgumentParser(prog=f'rucio-{what}', description={'up': 'Starts a Rucio server of your own on this machine, and writes DIR/env, which tells a shell where it is.',
                                                                    'down': 'Stops what rucio-up started in DIR.'}[what])
    if what == 'down':
        p.add_argument('dir', metavar='DIR')
        p.add_argument('--remove', action='store_true', help='remove DIR, the database in it')
        o = p.parse_args()
        o.dir = os.path.abspath(o.dir)
        if not os.path.isdir(f'{o.dir}/run'):
            raise Failed(f'{o.dir} is no folder of rucio-up')
        with locked(o.dir):
            stop(o.dir)
            if o.remove:
                remove(o.dir)
        return
    p.add_argument('--version', choices=('38', '41'), default='38', help="Rucio's line (38)")
    p.add_argument('--policy', choices=('generic', 'ctao'), default='generic', help='the policy package: none, or CTAO\'s (ctao-bdms-rucio-policy)')
    p.add_argument('--dir', default=f'/tmp/tarn-rucio-{os.geteuid()}', help='where all of it lives (%(default)s)')
    p.add_argument('--prefix', help='where virtual environments are kept (~/.cache/tarn/servers)')
    p.add_argument('--slashes', choices=('fold', 'keep'), help='what becomes of // in URLs: fold, as by Apache in front of Rucio, is for ctao, keep for generic')
    p.add_argument('--rses', type=int, default=2, help='disk RSEs below DIR/rse to begin with: SITE1_USERDISK, SITE2_USERDISK … (2)')
    p.add_argument('--user', default='tarn', help='an account beside root, with the scope user.NAME (tarn)')
    p.add_argument('--password', default='secret', help='of both (secret)')
    p.add_argument('--tls', action='store_true', help='HTTPS, where users may also come with certificates and proxies (x509, x509_proxy)')
    p.add_argument('--cert', help='of the server; without it one is made, and its authority is DIR/etc/ca.pem')
    p.add_argument('--key')
    p.add_argument('--ca', help='the authorities of server and users, one file')
    p.add_argument('--foreground', action='store_true', help='end with the standard input or SIGTERM')
    p.add_argument('--remove', action='store_true', help='with --foreground: remove DIR at the end')
    p.add_argument('--no-server', action='store_true', help='all but gunicorn, which DIR/bin/serve starts')
    p.add_argument('--venv', help=argparse.SUPPRESS)
    o = p.parse_args()
    o.dir = os.path.abspath(o.dir)
    check = subprocess.run([f'{HERE}/venv.sh', o.version, *([o.prefix] if o.prefix else [])], stdout=subprocess.PIPE, text=True)
    if check.returncode:
        sys.exit(check.returncode)
    o.venv = check.stdout.strip()
    up(o)


if __name__ == '__main__':
    try:
        main()
    except Failed as e:
        print(f'rucio: {e}', file=sys.stderr)
        sys.exit(3 if isinstance(e, Missing) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
