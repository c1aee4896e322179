"""A bucket for tests, on a disk: what fsspec asks of a backend, and what object stores do and refuse.

Objects have keys, not folders; they are read by ranges and written whole; what is being written is not
seen. `install` makes it gs:// and s3:// for this process and for those that it starts.
"""

import hashlib
import os
import pathlib
import urllib.parse

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

ROOT = 'VJAX_TEST_BUCKET'
FAIL_AT = 'VJAX_TEST_BUCKET_FAILS'  # Part of a key, reading which fails.


class Bucket(AbstractFileSystem):
    protocol = ('gs', 'gcs', 's3')

    def _file(self, key):
        return pathlib.Path(
            os.environ[ROOT], urllib.parse.quote(self._strip_protocol(key), safe='')
        )

    def _sizes(self):
        files = pathlib.Path(os.environ[ROOT]).iterdir()
        return {urllib.parse.unquote(file.name): file.stat().st_size for file in files}

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        found = {}
        for key, size in self._sizes().items():
            if key == path:
                found[key] = {'name': key, 'size': size, 'type': 'file'}
            elif key.startswith(f'{path}/'):
                name, slash, _ = key.removeprefix(f'{path}/').partition('/')
                kind = 'directory' if slash else 'file'
                entry = {'name': f'{path}/{name}', 'size': 0 if slash else size, 'type': kind}
                found[entry['name']] = entry
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def _open(self, path, mode='rb', **kwargs):
        return _Object(self, path, mode, **kwargs)

    def rm_file(self, path):
        self._file(path).unlink()

    def _rm(self, path):
        self.rm_file(path)


class _Object(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        if (at := os.environ.get(FAIL_AT)) and at in self.path:
            raise ConnectionError('the connection was reset')
        return self.fs._file(self.path).read_bytes()[start:end]

    def _initiate_upload(self):
        self._parts = []

    def _upload_chunk(self, final=False):
        self._parts.append(self.buffer.getvalue())
        if final:
            whole = b''.join(self._parts)
            # Appears in one moment.
            temporary = self.fs._file(self.path).parent.with_suffix('.uploads')
            temporary.mkdir(exist_ok=True)
            temporary /= f'{os.getpid()}-{hashlib.md5(self.path.encode()).hexdigest()}'
            temporary.write_bytes(whole)
            os.replace(temporary, self.fs._file(self.path))
        return True


def install(root, folder):
    """Returns the environment of processes whose gs:// and s3:// are kept in the folder `root`.

    Args:
        root: is made.
        folder: another, for a startup file.
    """
    root.mkdir()
    (folder / 'sitecustomize.py').write_text(
        'import importlib.util, os\n'
        f'spec = importlib.util.spec_from_file_location("bucket", {__file__!r})\n'
        'bucket = importlib.util.module_from_spec(spec)\n'
        'spec.loader.exec_module(bucket)\n'
        'bucket.register()\n'
    )
    return os.environ | {'PYTHONPATH': str(folder), ROOT: str(root)}


def register():
    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
