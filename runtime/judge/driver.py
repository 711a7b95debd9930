"""The driver of package judge: the program that CPython runs inside the confinement.

It stays, and forks two processes for each job: one runs the answer's program, the other runs the tests. The tests'
process never executes a line of the answer: a name of the answer's that a test uses stands there for a call to the other
process, and only plain data comes back. The answer's process never sees the tests, and has nothing by which it could say
that they passed.

Arguments: the seccomp filter of both processes (hexadecimal), the processor seconds and the bytes of memory that each may
use, the seconds after which a job is given up here too, and a file that must not be readable.
Descriptors: 0 brings jobs, 1 takes lines of JSON (see judge), 2 takes complaints until the first job, 3 is the null device.
Nothing of a job comes into the driver's own memory: the next answer's process is a copy of it and may look around there.
A job is two big-endian lengths of four bytes, the program, and a JSON object with the keys setup, tests and entry.
"""
import ctypes
import json
import os
import resource
import signal
import struct
import sys

# Loaded before the fork, so that most answers import without touching a file.
import bisect, cmath, collections, copy, functools, heapq, itertools, math, operator, re, string, typing  # noqa: E401,F401

FILTER, CPU, MEMORY, PATIENCE, FORBIDDEN = bytes.fromhex(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5]
PR_SET_PDEATHSIG, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_GET_NO_NEW_PRIVS = 1, 21, 22, 39
libc = ctypes.CDLL(None, use_errno=True)


def prctl(option, value=0, pointer=None):
    return libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


class Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def confine_further(parent):
    """Gives up, for good, what only the driver needs: other processes and signals."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    program = Filter(len(FILTER) // 8, FILTER)
    if prctl(PR_SET_SECCOMP, 2, ctypes.byref(program)) != 0:
        os._exit(70)
    if os.getppid() != parent:  # It died before it could be watched.
        os._exit(70)


def fork(parent, keep, work):
    """Starts a process that does work with the descriptors keep open, and nothing else of the driver's."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for standard in {0, 1, 2} - keep:
            os.dup2(3, standard)
        for fd in range(4, 64):
            if fd not in keep:
                try:
                    os.close(fd)
                except OSError:
                    pass
        work(lambda: confine_further(parent))
    except BaseException:
        os._exit(71)
    os._exit(0)


def judge(program_size, tests_size):
    """Does one job. The tests' process says the verdict itself, where it comes to one, in a line; returns the line that
    follows, which ends the job."""
    me = os.getpid()
    to_answer, from_answer, verdicts, ready = os.pipe(), os.pipe(), os.pipe(), os.pipe()

    def answer(confine):
        program = read_exactly(0, program_size)
        os.dup2(3, 0)
        os.write(ready[1], b"r" if len(program) == program_size else b"")
        os.close(ready[1])
        confine()
        Answer(Channel(to_answer[0], from_answer[1])).run(program.decode("utf-8", "replace"))

    def tests(confine):
        job = json.loads(read_exactly(0, tests_size))
        out = os.dup(1)
        os.dup2(3, 0)
        os.dup2(3, 1)
        confine()
        sys.set_int_max_str_digits(0)
        try:
            why = Tests(Channel(from_answer[0], to_answer[1])).run(job)
            verdict = {"passed": why is None, "why": why or ""}
        except Gone:
            verdict = {"gone": True}
        except BaseException as e:
            verdict = {"passed": False, "why": clip(f"{type(e).__name__}: {e}")}
        if "gone" not in verdict:
            say(verdict, out)
        os.write(verdicts[1], b"g" if "gone" in verdict else b"v")

    running = fork(me, {0, to_answer[0], from_answer[1], ready[1]}, answer)
    os.close(ready[1])
    if os.read(ready[0], 1) != b"r":
        raise Gone
    testing = fork(me, {0, 1, from_answer[0], to_answer[1], verdicts[1]}, tests)
    for fd in (ready[0], *to_answer, *from_answer, verdicts[1]):
        os.close(fd)
    verdict = read_exactly(verdicts[0], 1)
    os.close(verdicts[0])
    status, used = ended(testing)
    if verdict == b"g":
        return unfinished("program", *ended(running))
    os.kill(running, signal.SIGKILL)
    ended(running)
    return {"end": True} if verdict else unfinished("tests", status, used)


def ended(pid):
    """Waits for a process; returns its status and the processor time that it has used."""
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime


def unfinished(which, status, used):
    """What is said where a process ended before the tests were done. It has no means to kill itself: where it was killed
    and has not used its time, the machine did that, and nothing follows about the program."""
    if os.WIFEXITED(status):
        why = f"ended its own process with status {os.WEXITSTATUS(status)} before the tests were done"
    elif (number := os.WTERMSIG(status)) not in (signal.SIGKILL, signal.SIGXCPU):
        why = f"was ended by {signal.Signals(number).name}: {signal.strsignal(number)}"
    elif used < CPU / 2:
        return {"end": True, "failed": f"the system killed the {which}, which it does when it is short of memory"}
    else:
        why = f"used more than {CPU} s of processor time"
    return {"end": True, "passed": False, "why": f"the {which} {why}"}


def self_test():
    """Tries what must fail, and says what did not."""
    import socket
    works = []

    def must_fail(name, f, *args):
        try:
            f(*args)
            works.append(name)
        except (OSError, RuntimeError):
            pass

    def fork_again():
        if os.fork() == 0:
            os._exit(0)

    def child(confine):
        confine()
        must_fail("starting a process", fork_again)
        must_fail("a signal to the parent", os.kill, os.getppid(), 0)
        os._exit(len(works))

    must_fail("opening " + FORBIDDEN, os.open, FORBIDDEN, os.O_RDONLY)
    for family in ("AF_INET", "AF_INET6", "AF_UNIX"):
        must_fail("a socket of " + family, socket.socket, getattr(socket, family))
    must_fail("another program", os.execv, sys.executable, ["python3", "-c", ""])
    if prctl(PR_GET_SECCOMP) != 2 or prctl(PR_GET_NO_NEW_PRIVS) != 1:
        works.append("running without a seccomp filter")
    if os.waitstatus_to_exitcode(ended(fork(os.getpid(), set(), child))[0]) != 0:
        works.append("starting or signalling another process")
    return works


def say(message, out=1):
    write_all(out, json.dumps(message).encode() + b"\n")


def main():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    works = self_test()
    say({"python": sys.version.split()[0], "works": works})
    if works:
        return
    os.dup2(3, 2)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(72))
    while len(head := read_exactly(0, 8)) == 8:
        signal.alarm(PATIENCE)
        say(judge(*struct.unpack(">II", head)))
        signal.alarm(0)


main()
