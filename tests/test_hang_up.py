"""Terminals that are gone, and processes that lived on them."""

import fcntl
import os
import pty
import subprocess
import sys
import termios

import pytest

from calibzarr.storage import store

IMAGES = 3000


@pytest.mark.slow
def test_a_build_whose_terminal_is_closed_ends_well(tmp_path):
    path = tmp_path / "a.zarr"
    options = ["--num-images", IMAGES, "--repeat", "--num-steps", 1, "--image-size", 16]
    command = [sys.executable, "-m", "calibzarr", "build", path, *options]
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    told = b""
    while b"1/3000" not in told:
        told += os.read(terminal, 1024)
    os.close(terminal)
    assert process.wait() == 129
    complete = store.completed(path, IMAGES)
    assert 0 < complete.sum() < IMAGES
    assert not list(path.rglob("*.partial"))


def test_a_hang_up_before_the_work_ends_as_an_interrupt_does(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from calibzarr import cli\n"
        "from calibzarr.storage import reading\n"
        "reading.info = lambda path: os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.argv = ['calibzarr', 'info', 'a.zarr']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (129, "")
    assert done.stderr.strip() == "stopped"
