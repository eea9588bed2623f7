"""Answers lines of JSON {"path", "names"} with the attributes of these names that the root of an HDF5 file has."""
import json
import resource
import sys

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


def say(answer):
    sys.stdout.write(json.dumps(answer, allow_nan=False) + '\n')
    sys.stdout.flush()


try:
    import h5py
    import numpy
except ImportError as e:
    say({'ready': False, 'error': str(e)})
    sys.exit()


def plain(v):
    """A text, number or truth of an attribute; ValueError."""
    if isinstance(v, h5py.Empty):
        raise ValueError('it is empty')
    if isinstance(v, numpy.ndarray):
        if v.size != 1:
            raise ValueError('it is no scalar, but an array of %d' % v.size)
        v = v.reshape(-1)[0]
    if isinstance(v, numpy.generic):
        v = v.item()
    if isinstance(v, bytes):
        v = v.decode('utf-8')
    if isinstance(v, bool) or isinstance(v, (int, str)):
        return v
    if isinstance(v, float):
        if v != v or v in (float('inf'), float('-inf')):
            raise ValueError('the number is not finite')
        return v
    raise ValueError('it is no text, number or truth')


def attributes(path, names):
    found, faults = {}, {}
    with h5py.File(path, 'r') as f:
        for name in names:
            if name not in f.attrs:
                continue
            try:
                found[name] = plain(f.attrs[name])
            except Exception as e:  # of this attribute alone
                faults[name] = str(e) or type(e).__name__
    return {'attributes': found, 'faults': faults}


say({'ready': True})
for line in sys.stdin:
    try:
        q = json.loads(line)
        say(attributes(q['path'], q['names']))
    except Exception as e:
        say({'error': str(e) or type(e).__name__})
