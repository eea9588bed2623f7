"""A transfer tool for Rucio's conveyor that moves the bytes itself, where sites have FTS: with cp, gfal-copy and boto3.

Rucio's own submitter, poller and finisher do the rest, so rules, locks, retries and the choice of sources are the real ones. A file
goes by way of a local one, whose size and checksum must be what the catalogue says, and is read back.
"""
import ctypes
import datetime
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.parse
import zlib

from rucio.common import constants
from rucio.core import transfer as transfer_core
from rucio.db.sqla.constants import RequestState, RequestType
from rucio.transfertool.transfertool import TransferStatusReport, Transfertool, TransferToolBuilder

SECONDS = 120  # that one copy may take
GFAL = ('root', 'roots', 'xroot', 'davs', 'dav', 'https', 'http', 'gsiftp', 'ftp', 'srm')
outcomes = {}  # by request: (error or None, source RSE's id)


class Report(TransferStatusReport):
    supported_db_fields = ['state', 'external_id', 'transferred_at', 'source_rse_id', 'err_msg']

    def __init__(self, request_id, external_id, error, source):
        super().__init__(request_id)
        self.external_id, self.err_msg, self.source_rse_id = external_id, error, source
        self.state = RequestState.FAILED if error else RequestState.DONE
        self.transferred_at = None if error else datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)

    def initialize(self, session, logger=None):
        pass

    def get_monitor_msg_fields(self, session, logger=None):
        return {}


class Mover(Transfertool):
    external_name = 'mover'
    supported_schemes = {'file', 's3', 's3s', *GFAL}

    @classmethod
    def submission_builder_for_path(cls, transfer_path, logger=None):
        # One hop at a time: the next one begins when its source is there.
        return transfer_path[:1], TransferToolBuilder(cls, external_host='mover')

    def group_into_submit_jobs(self, transfer_paths):
        return [{'transfers': [t], 'job_params': {}} for path in transfer_paths for t in path]

    def submit(self, transfers, job_params, timeout=None):
        for t in transfers:
            outcomes[t.rws.request_id] = move(t)
        return transfers[0].rws.request_id

    def bulk_query(self, requests_by_eid, timeout=None):
        lost = ('the mover ended before it had told what became of this transfer', None)
        return {eid: {r: Report(r, eid, *outcomes.pop(r, lost)) for r in requests} for eid, requests in requests_by_eid.items()}

    def cancel(self, transfer_ids, timeout=None):
        return True

    def update_priority(self, transfer_id, priority, timeout=None):
        return True


# FTS could not copy between most of these; sources of other schemes would be left out.
(constants.BASE_SCHEME_MAP if hasattr(constants, 'BASE_SCHEME_MAP') else constants.SCHEME_MAP).update({a: sorted(Mover.supported_schemes) for a in Mover.supported_schemes})
transfer_core.TRANSFERTOOL_CLASSES_BY_NAME[Mover.external_name] = Mover


def move(t):
    """Tries the sources in Rucio's order; gives the errors of all, or the RSE it came from."""
    errors = []
    for source in t.sources:
        try:
            with tempfile.TemporaryDirectory(prefix='mover-', dir=os.path.dirname(os.environ['RUCIO_HOME']) + '/run') as tmp:
                local = os.path.join(tmp, 'file')
                fetch(t.source_url(source), local)  # from a tape system this brings it back
                verify(local, t.rws)
                if t.rws.request_type != RequestType.STAGEIN:  # which is there then: source and destination are one
                    store(local, t.dest_url)
                    os.remove(local)
                    fetch(t.dest_url, local)  # gfal-copy says that all is well also when it is not
                    verify(local, t.rws)
            return None, source.rse.id
        except Exception as e:
            said = getattr(e, 'stderr', None)
            errors.append(f'{source.rse}: {said.strip()[-300:] if said else e}')
    return ('; '.join(errors) or 'no source')[-1000:], None


def verify(local, rws):
    adler, md5, size = 1, hashlib.md5(), 0
    with open(local, 'rb') as f:
        while block := f.read(1 << 20):
            adler, size = zlib.adler32(block, adler), size + len(block)
            md5.update(block)
    if rws.byte_count is not None and size != rws.byte_count:
        raise ValueError(f'size mismatch: {size}, the catalogue says {rws.byte_count}')
    if rws.adler32 and f'{adler:08x}' != rws.adler32.lower().rjust(8, '0'):
        raise ValueError(f'checksum mismatch: adler32 {adler:08x}, the catalogue says {rws.adler32}')
    if rws.md5 and md5.hexdigest() != rws.md5.lower():
        raise ValueError(f'checksum mismatch: md5 {md5.hexdigest()}, the catalogue says {rws.md5}')


def fetch(url, local):
    u = urllib.parse.urlsplit(url)
    if u.scheme == 'file':
        shutil.copyfile(u.path, local)
    elif u.scheme in ('s3', 's3s'):
        client, bucket, key = s3(u)
        client.download_file(bucket, key, local)
    else:
        gfal(url, 'file://' + local)


def store(local, url):
    u = urllib.parse.urlsplit(url)
    if u.scheme == 'file':
        os.makedirs(os.path.dirname(u.path), exist_ok=True)
        shutil.copyfile(local, u.path + '.part')
        os.replace(u.path + '.part', u.path)
    elif u.scheme in ('s3', 's3s'):
        client, bucket, key = s3(u)
        client.upload_file(local, bucket, key)
    else:
        gfal('file://' + local, url)


def gfal(source, destination):
    # Its script looks for a python that Debian has not got; certificates, proxies and tokens are the environment's.
    env = dict(os.environ, GFAL_PYTHONBIN='/usr/bin/python3')
    args = ['gfal-copy', '-f', '-t', str(SECONDS), source, destination]
    if destination.startswith(('http', 'dav')):
        folders(destination)
    else:
        args.insert(1, '-p')
    done = subprocess.run(args, env=env, timeout=SECONDS + 10, capture_output=True, text=True, preexec_fn=die_with_us)
    # It aborts now and then when it is done and ends: what arrived decides, which is looked at in any case.
    if done.returncode not in (0, -signal.SIGABRT):
        raise subprocess.CalledProcessError(done.returncode, args, stderr=done.stderr or done.stdout)


def die_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def folders(url):
    """Makes those of a file over WebDAV, which gfal-copy does in a way that nginx refuses. Faults are seen when the file is put."""
    import requests
    url = url.replace('dav', 'http', 1) if url.startswith('dav') else url
    scheme, _, rest = url.partition('://')
    names = rest.split('/')
    proxy, token = os.environ.get('X509_USER_PROXY'), os.environ.get('BEARER_TOKEN')
    with requests.Session() as s:
        s.cert, s.verify = proxy, os.environ.get('X509_CERT_DIR', '/etc/grid-security/certificates')
        if token:
            s.headers['Authorization'] = 'Bearer ' + token
        for n in range(2, len(names)):
            s.request('MKCOL', f'{scheme}://{"/".join(names[:n])}/', timeout=60)


def s3(u):
    """Client, bucket and key of s3s://host:port/bucket/key; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are the environment's, AWS_CA_BUNDLE too."""
    import boto3
    from botocore.config import Config
    bucket, _, key = u.path.lstrip('/').partition('/')
    endpoint = ('https' if u.scheme == 's3s' else 'http') + '://' + u.netloc
    config = Config(s3={'addressing_style': 'path'}, request_checksum_calculation='when_required', response_checksum_validation='when_required')
    return boto3.client('s3', endpoint_url=endpoint, region_name='us-east-1', config=config), bucket, key
