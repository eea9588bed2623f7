"""Rucio's WSGI application, with the certificate of who comes where Apache's mod_ssl would put it."""
import functools
import gc
import os
import re

import populate

populate.once()  # before what looks into the tables when it is loaded

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402
from pymemcache import Client  # noqa: E402
from rucio.db.sqla import session  # noqa: E402
from rucio.web.rest.main import application as rucio  # noqa: E402


# Apache's MergeSlashes, which CTAO's policy package counts on: its pattern of DIDs in URLs takes /scope/vo/... for the name /vo/...,
# where clients send /scope//vo/....
FOLD = os.environ['RUCIO_SLASHES'] == 'fold'


def forked():
    """Leaves the connections of the process that forked us to it: Rucio's modules look into database and cache when they are loaded."""
    if session._ENGINE is not None:
        session._ENGINE.dispose(close=False)
    for o in gc.get_objects():
        if isinstance(o, Client):
            o.close()  # our descriptor of it


@functools.lru_cache(64)
def certificate(der):
    """Subject in the form of RFC 2253, as mod_ssl says it, and PEM."""
    cert = x509.load_der_x509_certificate(der)
    subject = cert.subject.rfc4514_string({NameOID.EMAIL_ADDRESS: 'emailAddress', NameOID.USER_ID: 'UID'})
    return subject, cert.public_bytes(Encoding.PEM).decode()


def application(environ, start_response):
    sock = environ.get('gunicorn.socket')
    der = sock.getpeercert(True) if hasattr(sock, 'getpeercert') else None
    if der:
        environ['SSL_CLIENT_S_DN'], environ['SSL_CLIENT_CERT'] = certificate(der)
        environ['SSL_CLIENT_VERIFY'] = 'SUCCESS'  # the handshake would have failed otherwise
    if FOLD:
        environ['PATH_INFO'] = re.sub('//+', '/', environ['PATH_INFO'])
    return rucio(environ, start_response)
