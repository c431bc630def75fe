#!/usr/bin/env python3
"""CPU ranks on two "hosts": network namespaces of this machine with hostnames of their own, joined by a pair of virtual
interfaces, on which launch/mpirun_hosts.sh starts the ranks through a remote-launch agent. The results are those of one
host, and a host that is cut off in the middle of a prefill ends the run everywhere, with the finished results kept.

Needs root, ip and unshare and the right to make namespaces; skipped (exit code 77) with the reason otherwise.

Usage: hosts_test.py RESTKV LAUNCH_FOLDER TEST_DATA MPIRUN
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

RESTKV, LAUNCH, DATA, MPIRUN = (os.path.abspath(a) for a in sys.argv[1:5])
del sys.argv[1:5]
SKIPPED = 77
DEADLINE_S = 20.0  # of the ranks' calls
NOTICED_S = 4.0    # the launcher's daemons ask each other, see environment()
TAG = f"{os.getpid() % 0xffff:x}"
HOSTS = (f"rkv{TAG}a", f"rkv{TAG}b")
LINKS = (f"rkv{TAG}0", f"rkv{TAG}1")
SUBNET = f"10.{190 + os.getpid() % 60}.{os.getpid() // 60 % 250}"

# Called as: agent [options] HOST COMMAND...; runs the command as a remote shell would.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0" && exec sh -c "$*"' "$host" "$@"
"""


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


def processes(host):
    found = subprocess.run(("ip", "netns", "pids", host), capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def make_hosts():
    for host in HOSTS:
        run("ip", "netns", "add", host)
        run("ip", "-n", host, "link", "set", "lo", "up")
    run("ip", "link", "add", LINKS[0], "netns", HOSTS[0], "type", "veth", "peer", "name", LINKS[1], "netns", HOSTS[1])
    for i, (host, link) in enumerate(zip(HOSTS, LINKS)):
        run("ip", "-n", host, "addr", "add", f"{SUBNET}.{i + 1}/24", "dev", link)
        run("ip", "-n", host, "link", "set", link, "up")
    run("ip", "netns", "exec", HOSTS[0], "unshare", "--uts", "hostname", HOSTS[0])


def remove_hosts():
    for host in HOSTS:
        for pid in processes(host):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        subprocess.run(("ip", "netns", "del", host), capture_output=True, check=False)


def why_not():
    """The reason to skip, or None when the two hosts stand."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("ip", "unshare"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    try:
        make_hosts()
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return None


class Hosts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        run("ip", "-n", HOSTS[1], "link", "set", LINKS[1], "up")
        with open(self.path("agent"), "w", encoding="utf-8") as agent:
            agent.write(AGENT)
        os.chmod(self.path("agent"), 0o755)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as out:
            out.write(text)
        return self.path(name)

    def environment(self):
        env = dict(os.environ)
        env["PATH"] = os.path.dirname(MPIRUN) + ":" + env["PATH"]
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
                   RESTKV_AGENT=self.path("agent"), RESTKV_NETWORK=f"{SUBNET}.0/24",
                   # Quicker than launch/hosts_env.sh has it: a second of silence, then two more.
                   OMPI_MCA_oob_tcp_keepalive_time="1", OMPI_MCA_oob_tcp_keepalive_intvl="1",
                   OMPI_MCA_oob_tcp_keepalive_probes="2")
        return env

    def start(self, slots, *arguments):
        """restkv on both hosts, `slots` ranks on each, started from the first one."""
        hostfile = self.write("hosts", "".join(f"{host} slots={slots}\n" for host in HOSTS))
        command = ["ip", "netns", "exec", HOSTS[0], "unshare", "--uts", "sh", "-c",
                   f'hostname {HOSTS[0]} && exec "$@"', "sh",
                   os.path.join(LAUNCH, "mpirun_hosts.sh"), hostfile, RESTKV, *arguments]
        with open(self.path("out"), "wb") as out, open(self.path("err"), "wb") as err:
            process = subprocess.Popen(command, env=self.environment(), stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def errors(self):
        with open(self.path("err"), encoding="utf-8", errors="replace") as err:
            return err.read()

    def lines(self, name):
        if not os.path.exists(self.path(name)):
            return []
        with open(self.path(name), encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def no_process_left(self, within):
        end = time.monotonic() + within
        while any(processes(host) for host in HOSTS) and time.monotonic() < end:
            time.sleep(0.1)
        for host in HOSTS:
            self.assertEqual(processes(host), [], f"{host} still runs processes\n{self.errors()}")

    def model(self):
        os.mkdir(self.path("model"))
        for source in ("models/llama3/config.json", "models/llama3/model.safetensors",
                       "byte_tokenizer/tokenizer.json", "byte_tokenizer/tokenizer_config.json"):
            os.symlink(os.path.join(DATA, source), os.path.join(self.path("model"), os.path.basename(source)))
        prompts = "".join(json.dumps({"id": f"p{i}", "prompt": "The quick brown fox jumps. " * (12 + 3 * i)}) + "\n"
                          for i in range(2))
        return self.write("run.yaml", f"""
model: {{path: {self.path("model")}}}
parallel: {{device: cpu, threads: 1, timeout_s: {DEADLINE_S}}}
cache: {{budget: 64}}
prompt: {{jsonl: {self.write("prompts.jsonl", prompts)}, chat: none}}
generate: {{max_new_tokens: 12, ignore_eos: true}}
""")

    def test_two_hosts_answer_as_one(self):
        config = self.model()
        for name, slots, sets in (("sequence", 1, ("parallel.decode=sequence",)),
                                  ("tensor", 1, ("parallel.decode=tensor",)),
                                  ("four", 2, ("parallel.tensor=2", "parallel.decode=tensor"))):
            with self.subTest(name):
                arguments = ["run", config]
                for key in (*sets, "output.stream=false"):
                    arguments += ["--set", key]
                two = self.start(slots, *arguments, "--set", f"output.file={self.path(name + '2')}")
                self.assertEqual(two.wait(timeout=120), 0, self.errors())
                subprocess.run([MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", str(2 * slots), RESTKV, *arguments,
                                "--set", f"output.file={self.path(name + '1')}"], env=self.environment() | {
                                    "RESTKV_NETWORK": ""}, check=True, capture_output=True, timeout=120)
                across, beside = self.lines(name + "2"), self.lines(name + "1")
                self.assertEqual(len(across), 2)
                for a, b in zip(across, beside):
                    for member in ("text", "new_token_ids", "kept_hash", "kept_counts", "bytes_sent", "layout"):
                        self.assertEqual(a[member], b[member], member)
                self.no_process_left(within=10)

    def test_by_itself_decode_stays_where_the_tokens_are(self):
        two = self.start(1, "run", self.model(), "--set", f"output.file={self.path('auto')}")
        self.assertEqual(two.wait(timeout=120), 0, self.errors())
        self.assertEqual(self.lines("auto")[0]["layout"]["decode"], "sequence")

    def test_a_host_that_is_cut_off_ends_the_run(self):
        config = self.write("bench.yaml", f"""
model: {{weights: random, preset: tiny}}
cache: {{window: 8}}
parallel: {{device: cpu, threads: 1, timeout_s: {DEADLINE_S}}}
bench: {{context: [300, 3000], policies: restkv, budgets: 64, new_tokens: 2, warmup: 0, repeats: 60,
         file: {self.path("b.jsonl")}}}
""")
        bench = self.start(1, "bench", config)
        end = time.monotonic() + 120
        while len(self.lines("b.jsonl")) < 3 and bench.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual([line["kind"] for line in self.lines("b.jsonl")], ["environment", "links", "point"],
                         self.errors())
        time.sleep(1.0)  # 60 prefills of 3,000 tokens take far longer
        self.assertIsNone(bench.poll(), self.errors())
        run("ip", "-n", HOSTS[1], "link", "set", LINKS[1], "down")
        cut = time.monotonic()
        code = bench.wait(timeout=60)
        self.assertLess(time.monotonic() - cut, DEADLINE_S + NOTICED_S, self.errors())
        self.assertNotEqual(code, 0, self.errors())
        text = self.errors()
        self.assertIn("lost communication with a remote daemon", text)
        self.assertIn(HOSTS[1], text)
        self.no_process_left(within=DEADLINE_S + NOTICED_S)
        lines = self.lines("b.jsonl")
        self.assertEqual(len(lines), 3)
        self.assertEqual(lines[2]["status"], "ok")


if __name__ == "__main__":
    reason = why_not()
    try:
        if reason is not None:
            print(f"skipped: {reason}")
            sys.exit(SKIPPED)
        unittest.main(verbosity=2)
    finally:
        remove_hosts()
