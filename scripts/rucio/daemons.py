"""Runs Rucio's daemons once each: rucio-daemons NAME..., or all of them, in the order of NAMES, without a name.

  injector evaluator repairer cleaner   the judge: asynchronous rules, attachments, STUCK rules, expired rules
  mover                                 the conveyor: submits, moves the bytes itself (mover.py), polls and finishes; a transfer that
                                        failed is queued again, until Rucio gives it up and the rule is STUCK
  transmogrifier                        subscriptions
  necromancer minos                     bad replicas
  undertaker reaper                     expired DIDs; replicas without a lock, and their files
  abacus                                what accounts and RSEs use, and dataset replicas

With --serve it stays: it takes one JSON value a line, {"run": [NAME...], "reaper": RSE expression} or {"python": source, "with": {name: value}},
and says {"out": what was printed} or {"error": traceback} for each.
"""
import contextlib
import fcntl
import importlib.machinery
import importlib.util
import io
import json
import logging
import os
import sys
import threading
import traceback

ROOT = os.path.dirname(os.environ['RUCIO_HOME'])
logging.basicConfig(filename=f'{ROOT}/log/daemons', level=logging.INFO, format='%(asctime)s %(levelname)s %(name)s %(message)s')

import mover  # noqa: E402,F401
import rucio.daemons.abacus.account as abacus_account  # noqa: E402
import rucio.daemons.abacus.collection_replica as abacus_collection_replica  # noqa: E402
import rucio.daemons.abacus.rse as abacus_rse  # noqa: E402
import rucio.daemons.badreplicas.minos as minos  # noqa: E402
import rucio.daemons.badreplicas.necromancer as necromancer  # noqa: E402
import rucio.daemons.conveyor.finisher as finisher  # noqa: E402
import rucio.daemons.conveyor.poller as poller  # noqa: E402
import rucio.daemons.conveyor.submitter as submitter  # noqa: E402
import rucio.daemons.judge.cleaner as cleaner  # noqa: E402
import rucio.daemons.judge.evaluator as evaluator  # noqa: E402
import rucio.daemons.judge.injector as injector  # noqa: E402
import rucio.daemons.judge.repairer as repairer  # noqa: E402
import rucio.daemons.reaper.reaper as reaper  # noqa: E402
import rucio.daemons.transmogrifier.transmogrifier as transmogrifier  # noqa: E402
import rucio.daemons.undertaker.undertaker as undertaker  # noqa: E402
from rucio.common import cache  # noqa: E402
from rucio.core import heartbeat  # noqa: E402
from rucio.db.sqla.constants import RequestType  # noqa: E402

REAPER = {'rses': None}


gfal2 = importlib.machinery.PathFinder.find_spec('gfal2', ['/usr/lib/python3/dist-packages'])
if gfal2:  # Debian's, by which Rucio deletes on other storages than disks
    with contextlib.suppress(ImportError):
        sys.modules['gfal2'] = importlib.util.module_from_spec(gfal2)


class Now(threading.Event):
    """Daemons wait on it for others of their kind to share the work with; there are none."""

    def wait(self, timeout=None):
        return self.is_set()


for m in (abacus_account, abacus_collection_replica, abacus_rse, minos, necromancer, cleaner, evaluator, injector, repairer, transmogrifier, undertaker):
    name = 'graceful_stop' if hasattr(m, 'graceful_stop') else 'GRACEFUL_STOP'
    assert hasattr(m, name), m
    setattr(m, name, Now())


def move():
    at_once = dict(once=True, partition_wait_time=0)
    submitter.submitter(bulk=10000, transfertools=['mover'], **at_once)
    # Rucio's own stager speaks with FTS only; this is what it does.
    submitter.submitter(bulk=10000, transfertools=['mover'], executable='conveyor-stager', request_type=[RequestType.STAGEIN], default_lifetime=-1, **at_once)
    poller.poller(older_than=0, db_bulk=10000, transfertool='mover', **at_once)
    finisher.finisher(db_bulk=10000, **at_once)


def abacus():
    abacus_rse.rse_update(once=True)
    abacus_account.account_update(once=True)
    abacus_collection_replica.collection_replica_update(once=True)


NAMES = {
    'transmogrifier': lambda: transmogrifier.transmogrifier(bulk=1000, once=True),
    'injector': lambda: injector.rule_injector(once=True),
    'evaluator': lambda: evaluator.re_evaluator(once=True, did_limit=1000),
    'mover': move,
    'repairer': lambda: repairer.rule_repairer(once=True),
    'cleaner': lambda: cleaner.rule_cleaner(once=True),
    'necromancer': lambda: necromancer.necromancer(bulk=1000, once=True),
    'minos': lambda: minos.minos(bulk=1000, once=True),
    'undertaker': lambda: undertaker.undertaker(once=True, chunk_size=100),
    'reaper': lambda: reaper.reaper(rses=[], include_rses=REAPER['rses'], exclude_rses=None, greedy=True, once=True, chunk_size=1000),
    'abacus': abacus,
}


def run(names):
    unknown = [n for n in names if n not in NAMES]
    if unknown:
        raise ValueError(f'no such daemon: {" ".join(unknown)} (there are {" ".join(NAMES)})')
    with open(f'{ROOT}/run/daemons.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        heartbeat.cardiac_arrest()  # of those that were killed: work would be left for them
        for n in names or NAMES:
            # Expressions and RSEs are cached for minutes, also those of before a test's changes.
            flush()
            NAMES[n]()


def flush():
    import pymemcache
    with contextlib.closing(pymemcache.Client(cache.CACHE_URL, connect_timeout=5, timeout=5)) as c:
        c.flush_all()


def serve():
    known = {}
    answers = os.fdopen(os.dup(1), 'w')
    for line in sys.stdin:
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                ask = json.loads(line)
                REAPER['rses'] = ask.get('reaper') or None
                if 'python' in ask:
                    flush()
                    known.update(ask.get('with') or {})
                    exec(compile(ask['python'], 'snippet', 'exec'), known)
                    flush()
                else:
                    run(ask['run'])
            answer = {'out': out.getvalue()}
        except BaseException:
            answer = {'out': out.getvalue(), 'error': traceback.format_exc()}
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


if __name__ == '__main__':
    if sys.argv[1:2] == ['--serve']:
        serve()
    elif any(a.startswith('-') for a in sys.argv[1:]):
        print(__doc__)
    else:
        try:
            run(sys.argv[1:])
        except ValueError as e:
            sys.exit(f'rucio-daemons: {e}')
    os._exit(0)  # what Rucio has loaded takes a second to take down
