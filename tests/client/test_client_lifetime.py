"""Forks, exits and module-level functions: each in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from client_peer import Peer

HERE = Path(__file__).parent
PREPARE = """
import os, sys, threading, time
import syncevents
from samples import failed
PATH = os.environ["SYNCEVENTS_SOCKET"]
def publish(text, publisher=syncevents):
    publisher.publish_sync_failed(13, None, failed(error=text))
"""


def run(peer: Peer, script: str, *, limit: float = 60, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SYNCEVENTS_SOCKET": str(peer.path), "PYTHONPATH": str(HERE)} | settings
    return subprocess.run(
        # From 3.12 on Python warns of every fork of a process with threads, which is what is tested here.
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            PREPARE + textwrap.dedent(script),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def errors(peer: Peer) -> list[str]:
    return [event["data"]["error"] for event in peer.events()]


def test_a_normal_exit_flushes_what_the_functions_published(peer: Peer) -> None:
    peer.start()
    done = run(peer, "for i in range(3000): publish(str(i))")
    assert (done.returncode, done.stderr) == (0, "")
    assert errors(peer) == [str(i) for i in range(3000)]


def test_an_exit_by_an_exception_or_sys_exit_flushes_too(peer: Peer) -> None:
    peer.start()
    assert run(peer, "publish('a'); sys.exit(3)").returncode == 3
    assert run(peer, "publish('b'); raise KeyError").returncode == 1
    assert errors(peer) == ["a", "b"]


def test_an_exit_without_a_daemon_says_what_is_lost_and_ends(peer: Peer) -> None:
    # The limit of the run is far above the deadline of 5 s: it only tells an end from none.
    done = run(peer, "for i in range(7): publish(str(i))")
    assert done.returncode == 0
    assert "7 events are not acknowledged" in done.stderr
    assert str(peer.path) in done.stderr


def test_the_functions_publish_flush_and_report_rejects(peer: Peer) -> None:
    peer.judge = lambda line: ("invalid_event", "no") if b'"bad"' in line else None
    peer.start()
    done = run(
        peer,
        """
        publish("good"); publish("bad")
        try:
            syncevents.flush(60)
        except syncevents.Rejected as error:
            print(error.rejects[0].code, syncevents.statistics().acked)
        """,
    )
    assert (done.stdout, done.stderr) == ("invalid_event 2\n", "")


def test_the_functions_drop_and_never_raise_when_the_queue_is_full(peer: Peer) -> None:
    done = run(
        peer,
        """
        for i in range(20010): publish("x")
        print(syncevents.statistics().dropped, syncevents.statistics().pending, flush=True)
        os._exit(0)
        """,
    )
    assert done.stdout == "10 20000\n"
    assert done.stderr.count("dropped") == 1


def test_a_forked_child_is_a_new_producer_with_an_empty_queue_and_the_parent_goes_on(peer: Peer) -> None:
    peer.start()
    done = run(
        peer,
        """
        publish("parent 1")
        syncevents.flush(60)
        publish("parent 2")
        child = os.fork()
        if child == 0:
            assert syncevents.statistics().pending == 0
            publish("child")
            syncevents.flush(60)
            os._exit(0)
        publish("parent 3")
        assert os.waitpid(child, 0)[1] == 0
        publish("parent 4")
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(errors(peer)) == ["child", "parent 1", "parent 2", "parent 3", "parent 4"]
    assert [text for text in errors(peer) if text != "child"] == [f"parent {n}" for n in (1, 2, 3, 4)]
    assert len(peer.producers) == 2


def test_forking_while_other_threads_publish_hangs_nobody_and_doubles_nothing(peer: Peer) -> None:
    peer.start()
    done = run(
        peer,
        """
        publisher = syncevents.Publisher(PATH, max_pending=10**6)
        def work(name):
            for i in range(2000): publish(f"parent {name} {i}", publisher)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        children = []
        for n in range(20):
            child = os.fork()
            if child == 0:
                publish(f"child {n}", publisher)
                publisher.flush(60)
                os._exit(0)
            children.append(child)
        for thread in threads: thread.join()
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        publisher.close(60)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    parent = [f"parent {name} {i}" for name in range(4) for i in range(2000)]
    assert sorted(errors(peer)) == sorted(parent + [f"child {n}" for n in range(20)])


def test_a_child_keeps_no_descriptor_of_its_parents_connection(peer: Peer) -> None:
    peer.start()
    done = run(
        peer,
        """
        publish("parent")
        syncevents.flush(60)
        before = len(os.listdir("/proc/self/fd"))
        child = os.fork()
        if child == 0:
            os._exit(before - len(os.listdir("/proc/self/fd")))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    )
    assert done.stdout == "3\n"  # the connection and both ends of the doorbell


def test_a_child_forked_by_the_callback_ends_its_copy_of_the_sender(peer: Peer) -> None:
    peer.judge = lambda _: ("invalid_event", "no")
    peer.start()
    done = run(
        peer,
        """
        children = []
        def fork(reject):
            child = os.fork()
            if child:
                children.append(child)
        publisher = syncevents.Publisher(PATH, on_reject=fork)
        publish("x", publisher)
        try:
            publisher.flush(60)
        except syncevents.Rejected:
            print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
        """,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert len(peer.hellos) == 1


def test_a_child_of_multiprocessing_publishes_when_it_flushes(peer: Peer) -> None:
    peer.start()
    done = run(
        peer,
        """
        import multiprocessing
        publish("parent")
        def work():
            publish("child")
            syncevents.flush(60)
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start(); process.join()
        sys.exit(process.exitcode)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(errors(peer)) == ["child", "parent"]


def test_a_signal_handler_may_publish_while_its_thread_publishes(peer: Peer) -> None:
    peer.start()
    done = run(
        peer,
        """
        import signal
        seen = 0
        def handler(*_):
            global seen
            seen += 1
            publish("handler")
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for i in range(15000): publish("loop")
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(seen)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = int(done.stdout)
    assert errors(peer).count("handler") == seen
    assert errors(peer).count("loop") == 15000


def test_the_end_of_the_daemon_kills_no_program_that_restored_sigpipe(peer: Peer) -> None:
    peer.start()
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PREPARE
            + textwrap.dedent(
                """
                import signal
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                publish("a"); syncevents.flush(60)
                print(flush=True); sys.stdin.readline()
                for i in range(100): publish("b"); time.sleep(0.001)
                print(flush=True); sys.stdin.readline()
                """
            ),
        ],
        env=os.environ | {"SYNCEVENTS_SOCKET": str(peer.path), "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with program:
        program.stdout.readline()
        peer.stop()
        program.stdin.write("\n")
        program.stdin.flush()
        program.stdout.readline()
        peer.start()
        program.communicate("\n", timeout=60)
    assert program.returncode == 0 != -signal.SIGPIPE
    assert errors(peer) == ["a"] + ["b"] * 100


def test_importing_the_client_imports_no_event_loop_and_nothing_but_attrs(peer: Peer) -> None:
    done = run(
        peer,
        """
        third = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
        third -= {"__main__", "samples", "attr", "attrs", "syncevents", "sitecustomize"}
        print(sorted(name for name in third if not name.startswith(("_", "cython"))), "asyncio" in sys.modules)
        """,
    )
    assert done.stdout == "[] False\n"


@pytest.mark.parametrize(
    "where", ["atexit.register(publish, 'late')", "import weakref; weakref.finalize(C, publish, 'late')"]
)
def test_publishing_at_the_very_end_of_the_process_breaks_nothing(peer: Peer, where: str) -> None:
    peer.start()
    done = run(peer, f"import atexit\nclass C: pass\n{where}\npublish('early')")
    assert (done.returncode, done.stderr) == (0, "")
    assert errors(peer)[0] == "early"


def test_a_destructor_that_publishes_while_the_interpreter_ends_does_not_hang_it(peer: Peer) -> None:
    peer.start()
    script = """
        class Sync:
            def __del__(self):
                publish("late")
        sync = Sync()
        publish("early")
        syncevents.flush(30)
    """
    done = run(peer, script)
    assert done.returncode == 0
    assert errors(peer) == ["early"]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_flushes_as_it_ends(peer: Peer, method: str, tmp_path: Path) -> None:
    peer.start()
    script = tmp_path / "script.py"
    script.write_text(
        PREPARE
        + textwrap.dedent(f"""
            import multiprocessing
            def child():
                publish("from the child")
            if __name__ == "__main__":
                publish("from the parent")
                process = multiprocessing.get_context({method!r}).Process(target=child)
                process.start()
                process.join()
                assert process.exitcode == 0
        """)
    )
    environment = os.environ | {"SYNCEVENTS_SOCKET": str(peer.path), "PYTHONPATH": str(HERE)}
    subprocess.run([sys.executable, str(script)], env=environment, timeout=60, check=True)
    assert sorted(errors(peer)) == ["from the child", "from the parent"]
