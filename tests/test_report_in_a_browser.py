"""The page of a run in Chromium: what it asks for, what it complains of, and whether its videos play."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest

from vjax.reports import page

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no chromium on PATH')
CLASSES = ('<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', 'c', 'd', 'e', 'f')
SECONDS = 60


class Browser:
    """Chromium while a `with` lasts.

    Attributes:
        requests: URLs that pages asked for.
        complaints: lines of the console, uncaught errors and the browser's own log.
    """

    def __init__(self, path):
        self.requests, self.complaints = [], []
        self._path, self._last, self._events, self._buffer = path, 0, [], b''

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            theirs, self._to = os.pipe()
            self._from, answers = os.pipe()
            options = '--headless --no-sandbox --disable-gpu --remote-debugging-pipe'
            # DevTools listens on descriptor 3, and answers on 4.
            line = f'exec "$0" {options} --user-data-dir="$1" 3<&{theirs} 4>&{answers}'
            process = subprocess.Popen(
                ['bash', '-c', line, self._path, profile],
                pass_fds=(theirs, answers),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.close(theirs)
            os.close(answers)
            stack.callback(os.close, self._from)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            stack.callback(os.close, self._to)
            target = self._call('Target.createTarget', url='about:blank')['targetId']
            attached = self._call('Target.attachToTarget', targetId=target, flatten=True)
            self._session = attached['sessionId']
            for domain in ('Page', 'Network', 'Runtime', 'Log'):
                self._call(f'{domain}.enable', self._session)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def open(self, url):
        """Goes to a page, and waits until it is loaded."""
        self._events.clear()
        self._call('Page.navigate', self._session, url=url)
        while 'Page.loadEventFired' not in self._events:
            self._read()

    def run(self, script):
        """The value of an expression in the page, awaited."""
        asked = {'expression': script, 'awaitPromise': True, 'returnByValue': True}
        answer = self._call('Runtime.evaluate', self._session, **asked)
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def _call(self, method, session=None, **params):
        self._last += 1
        message = {'id': self._last, 'method': method, 'params': params}
        if session:
            message['sessionId'] = session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._read()
            if answer.get('id') == self._last:
                assert 'error' not in answer, (method, answer['error'])
                return answer['result']

    def _read(self):
        """The next message, noted if it is an event."""
        deadline = time.monotonic() + SECONDS
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, 'the browser does not answer'
            part = os.read(self._from, 1 << 16)
            assert part, 'the browser is gone'
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b'\0')
        message = json.loads(message)
        event, params = message.get('method'), message.get('params', {})
        self._events.append(event)
        if event == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'])
        elif event in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded'):
            self.complaints.append(params)
        return message


@pytest.fixture(scope='module')
def file(contents_of_guesses, tmp_path_factory):
    """A page of a run whose names are an attack."""
    contents = contents_of_guesses({'label': CLASSES}, workdir='<img src=http://127.0.0.1:9/x>')
    file = tmp_path_factory.mktemp('page') / 'report.html'
    file.write_text(page.render(contents), encoding='utf-8')
    return file


@pytest.fixture(scope='module')
def browser():
    with Browser(CHROMIUM) as browser:
        yield browser


def test_a_page_is_shown_without_a_request_or_a_complaint(file, browser):
    browser.open(file.as_uri())
    seen = browser.run(
        """(async () => {
            const played = [];
            for (const video of document.querySelectorAll('video')) {
                await video.play();
                const before = video.currentTime;
                for (let i = 0; i < 100 && video.currentTime === before; i++) {
                    await new Promise((done) => setTimeout(done, 50));
                }
                played.push(video.readyState >= 2 && video.currentTime !== before);
            }
            const table = document.querySelector('table.sortable');
            const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
            const before = names();
            table.querySelector('button').click();
            return {
                played, before, after: names(),
                scripts: document.scripts.length,
                images: document.images.length,
                button: !document.getElementById('pause').hidden,
                wide: document.documentElement.scrollWidth > innerWidth,
            };
        })()"""
    )
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith('data:')] == [file.as_uri()]
    assert seen['played'] == [True] * 12
    assert seen['scripts'] == 1
    assert seen['images'] == 0
    assert seen['button'], 'the script did not run'
    assert seen['after'] == [CLASSES[1], CLASSES[0], *CLASSES[2:]]
    assert {*seen['before']} == {*CLASSES}
    assert not seen['wide']


def test_a_request_or_a_complaint_would_be_noticed(file, browser, tmp_path):
    other = tmp_path / 'other.html'
    text = file.read_text(encoding='utf-8')
    other.write_text(text.replace('</main>', '<img src="x.png"><script>alert(1)</script></main>'))
    browser.open(other.as_uri())
    refused = json.dumps(browser.complaints)
    assert 'Content Security Policy' in refused
    assert 'x.png' in refused
