"""Kill one of four ranks at random moments of training, and check how the others end and whether a run resumes.

    python tests/lost_ranks.py [moments] [seed]

Every rank trains under fully_shard and saves a checkpoint (torch.distributed.checkpoint) every five steps into a new
folder; rank 0 names the last complete one in a file. After a random time one rank gets SIGKILL. The others must end
with an error that names the exchange or the collective. Then 3, 2 or 1 ranks load the last named checkpoint and must
follow the curve of a run without faults. Exit status 1 if one moment fails.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent
STEPS, EVERY, TIMEOUT = 100, 5, 10.0
EXPECTED = re.compile(r"Muon: .*(exchange of matrices|comparing the plans)|gloo|Gloo|Connection closed|store|Timed out")


def rank_main(folder: str, rank: int, ranks: int, name: str, steps: int) -> None:
    """One rank: load the named checkpoint if there is one, train to `steps`, and print the losses."""
    sys.path.insert(0, str(ROOT / "distributed"))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    import torch
    from models import Tiny, batch, loss_of, spread
    from torch import distributed
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as tools

    from matfn.optim import Muon, plan

    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store-{name}", ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=TIMEOUT))
    model, _, _ = spread(Tiny(layers=1, dtype=torch.float64), "fsdp")
    optimizer, last, first = Muon(plan(model), lr=0.01), Path(folder, "last"), 0

    def gathered() -> dict:
        return {
            "model": tools.get_model_state_dict(model),
            "optimizer": tools.get_optimizer_state_dict(model, optimizer),
        }

    if last.exists():
        at = last.read_text()
        held = {
            "model": tools.get_model_state_dict(model),
            "optimizer": tools.get_optimizer_state_dict(model, optimizer),
        }
        dcp.load(held, checkpoint_id=at)
        tools.set_state_dict(model, optimizer, model_state_dict=held["model"], optim_state_dict=held["optimizer"])
        first = int(at.rsplit("-", 1)[1])
    print("ready", flush=True)
    for step in range(first, steps):
        optimizer.zero_grad()
        loss = loss_of(
            model, batch(step)
        )  # all ranks read the whole batch, so that any number of them computes the same
        loss.backward()
        optimizer.step()
        print(f"{step} {loss.item():.17g}", flush=True)
        if (step + 1) % EVERY == 0:
            path = f"{folder}/step-{step + 1}"
            dcp.save(gathered(), checkpoint_id=path)
            if rank == 0:
                Path(folder, "new").write_text(path)
                os.replace(Path(folder, "new"), last)
    distributed.destroy_process_group()


def started(folder: str, ranks: int, name: str, steps: int) -> list[subprocess.Popen]:
    command = [sys.executable, str(Path(__file__).resolve()), "rank", folder]
    return [
        subprocess.Popen(
            [*command, str(rank), str(ranks), name, str(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def ended(processes: list[subprocess.Popen], limit: float) -> list[tuple[int | None, str, str]]:
    """Exit status, output and errors of each; status None for a process that hung and was killed."""
    end, found = time.monotonic() + limit, []
    for process in processes:
        try:
            out, err = process.communicate(timeout=max(0.1, end - time.monotonic()))
            found.append((process.returncode, out, err))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            found.append((None, out, err))
    return found


def curve(out: str) -> dict[int, float]:
    pairs = (line.split() for line in out.splitlines() if line and line != "ready")
    return {int(step): float(loss) for step, loss in pairs}


def close(a: float, b: float) -> bool:
    """Losses of float64 runs on other numbers of ranks differ by rounding, which training multiplies."""
    return abs(a - b) <= 1e-6 * abs(b)


def moment(number: int, draw: random.Random, truth: dict[int, float]) -> str:
    """One death at a random time and a resumed run; "" or what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        victim, delay, ranks = draw.randrange(4), draw.uniform(0.0, 3.0), 3 - number % 3
        processes = started(folder, 4, "first", STEPS)
        try:
            for process in processes:
                if process.stdout.readline() != "ready\n":
                    return "a rank did not start"
            time.sleep(delay)
            processes[victim].send_signal(signal.SIGKILL)
            begun = time.monotonic()
            outcomes = ended(processes, TIMEOUT + 20)
            seconds = time.monotonic() - begun
        finally:
            for process in processes:
                process.kill()
        reached = max([-1, *curve(outcomes[victim][1])])
        for rank, (status, _, err) in enumerate(outcomes):
            if rank != victim and (status in (0, None) or not EXPECTED.search(err)):
                return f"rank {rank} ended with status {status}: {err[-500:]}"
        own = sum("Muon: " in err for _, _, err in outcomes)
        last = Path(folder, "last")
        first = int(last.read_text().rsplit("-", 1)[1]) if last.exists() else 0
        again = ended(started(folder, ranks, "again", first + 4), 120)
        for status, out, err in again:
            losses = curve(out)
            if status != 0 or len(losses) != 4:
                return f"the run on {ranks} ranks ended with status {status}: {err[-500:]}"
            wrong = {step: (loss, truth[step]) for step, loss in losses.items() if not close(loss, truth[step])}
            if wrong:
                return f"the run on {ranks} ranks left the curve: {wrong}"
        print(
            f"{number}: rank {victim} killed after step {reached}, others ended in {seconds:.1f} s, {own} of 3 in the "
            f"optimizer's step; {ranks} ranks resumed from step {first}",
            flush=True,
        )
        return ""


def main(moments: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        [(status, out, err)] = ended(started(folder, 1, "truth", STEPS), 300)
        if status != 0:
            print(f"the run without faults ended with status {status}: {err[-500:]}")
            return 1
        truth = curve(out)
    draw, failed = random.Random(seed), 0
    for number in range(moments):
        problem = moment(number, draw, truth)
        failed += bool(problem)
        if problem:
            print(f"{number}: {problem}", flush=True)
    print(f"{moments - failed} of {moments} moments as they should be (seed {seed})")
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank_main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
    else:
        sys.exit(main(*(int(given) for given in (sys.argv[1:] + ["20", "0"][len(sys.argv) - 1 :]))))
