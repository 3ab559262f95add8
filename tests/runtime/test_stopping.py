"""A signal ends the loop after its step, and the script with the code of the signal."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from robustjax.runtime import stopping


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_asks(number, code, capfd):
    before = signal.getsignal(number)
    with stopping() as stop:
        assert not stop.agreed(0) and stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.requested and stop.agreed(1) and stop.exit_code == code
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_a_second_interrupt_aborts_and_a_second_term_does_not():
    with stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.exit_code == 143


def test_outside_of_the_main_thread_nothing_happens():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stopping() as stop:
            seen.append((signal.getsignal(signal.SIGTERM) is before, stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


SCRIPT = """
import sys, time
from robustjax.runtime import progress, stopping
with stopping() as stop:
    for step, _ in progress(range(10_000), total=10_000, label="train"):
        if step == 2:
            print("running", flush=True)
        time.sleep(0.01)
        if stop.agreed(step):
            print("saved", step + 1, flush=True)
            break
sys.exit(stop.exit_code)
"""


@pytest.mark.slow
def test_a_preempted_script_saves_and_ends_with_143():
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None and run.stdout.readline() == "running\n"
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 143
    done = int(out.split()[1])
    assert err.splitlines()[1] == "SIGTERM: stopping after this step"
    assert f"{done}/10000" in err.splitlines()[2] and len(err.splitlines()) == 3


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="every is 0"), stopping(every=0):
        pass
