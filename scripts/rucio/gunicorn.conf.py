"""gunicorn's configuration; DIR/bin/serve of scripts/rucio-up sets the environment."""
import os
import ssl

bind = os.environ['RUCIO_BIND']
worker_class = 'gthread'
workers = 2
threads = 8
timeout = 600
graceful_timeout = 2
keepalive = 75  # seconds; the default of 2 closes connections under its clients' requests
limit_request_line = 8190  # Apache's
limit_request_field_size = 16380
preload_app = True  # one import for all workers
control_socket_disable = True
worker_tmp_dir = os.environ['RUCIO_ROOT'] + '/run'
loglevel = 'warning'

if os.environ['RUCIO_CERT']:
    certfile, keyfile, ca_certs = os.environ['RUCIO_CERT'], os.environ['RUCIO_KEY'], os.environ['RUCIO_CA']
    cert_reqs = ssl.CERT_OPTIONAL

    def ssl_context(conf, default):
        context = default()
        context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS  # RFC 3820
        return context


def post_fork(server, worker):
    import app  # the application's module, loaded by then
    app.forked()


# There is nothing to save at an end, and Python's takes seconds for what Rucio has loaded.
def worker_exit(server, worker):
    os._exit(0)


def on_exit(server):
    os._exit(0)
