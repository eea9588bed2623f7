"""Makes the tables of a new database, the accounts root and RUCIO_TRY_USER, their scopes, and disk RSEs to begin with."""
import os


def once():
    """Does it if it has not been done to the end; a half-made database is begun anew."""
    done = os.environ['RUCIO_ROOT'] + '/run/ready'
    if not os.path.exists(done):
        populate(os.environ['RUCIO_ROOT'] + '/rse', os.environ['RUCIO_TRY_USER'], os.environ['RUCIO_TRY_PASSWORD'], int(os.environ['RUCIO_TRY_RSES']))
        with open(done, 'w'):
            pass


def populate(folder, login, password, rses):
    from rucio.common.types import InternalAccount, InternalScope
    from rucio.core import account, account_limit, distance, identity, rse, scope
    from rucio.db.sqla.constants import AccountType, DatabaseOperationType, IdentityType, RSEType
    from rucio.db.sqla.session import db_session, get_engine
    from rucio.db.sqla.util import build_database, create_base_vo, create_root_account
    from sqlalchemy import text

    with get_engine().begin() as c:
        c.execute(text('DROP SCHEMA IF EXISTS dev CASCADE'))
    build_database()
    create_base_vo()
    create_root_account()

    root, user = InternalAccount('root'), InternalAccount(login)
    with db_session(DatabaseOperationType.WRITE) as session:
        email = f'{login}@localhost'
        account.add_account(user, AccountType.USER, email, session=session)
        identity.add_identity(login, IdentityType.USERPASS, email, password, session=session)
        identity.add_account_identity(login, IdentityType.USERPASS, user, email, default=True, password=password, session=session)
        scope.add_scope(InternalScope(f'user.{login}'), user, session=session)
        if os.environ['RUCIO_TRY_POLICY'] == 'ctao':
            scope.add_scope(InternalScope('root'), root, session=session)  # of / and /<vo>
        ids = []
        for n in range(1, rses + 1):
            name = f'SITE{n}_USERDISK'  # the ending lets others than root add replicas (Rucio's generic permissions)
            prefix = f'{folder}/{name}/'
            os.makedirs(prefix, exist_ok=True)
            ids.append(rse.add_rse(name, deterministic=True, rse_type=RSEType.DISK, session=session))
            every = {'read': 1, 'write': 1, 'delete': 1}
            rse.add_protocol(ids[-1], {'scheme': 'file', 'hostname': 'localhost', 'port': 0, 'prefix': prefix, 'impl': 'rucio.rse.protocols.posix.Default',
                                       'domains': {'lan': every, 'wan': dict(every, third_party_copy_read=1, third_party_copy_write=1)}}, session=session)
            rse.add_rse_attribute(ids[-1], 'site', f'SITE{n}', session=session)
            for who in (root, user):
                account_limit.set_local_account_limit(who, ids[-1], -1, session=session)
        for a in ids:
            for b in ids:
                if a != b:
                    distance.add_distance(a, b, distance=1, session=session)
