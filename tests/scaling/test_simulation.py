"""The simulator against the laws that it must obey in the cases where they are known."""

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock_operator.cli import commands
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.clairvoyant import attainment, search
from penstock_operator.simulation.command import simulate
from penstock_operator.simulation.fleet import Fleet
from penstock_operator.simulation.replica import Job
from penstock_operator.simulation.rivals import Fixed, Hpa, Kpa
from penstock_operator.simulation.setup import Outcome, Setup
from penstock_operator.simulation.trace import Arrival, Synthetic, generate, read, scaled

SHARING = ServiceCurve(a=1e-9, b_p=1e-9, b_d=0.001, c=0.0)
"""Steps cost their sequences only: a replica that shares itself evenly."""
REAL = ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000)


def poisson(rate: float, seconds: float, mean: int, exponential: bool) -> list[Arrival]:
    """Return Poisson arrivals with answers of some mean length."""
    draw = random.Random(3)
    found, time = [], 0.0
    while (time := time + draw.expovariate(rate)) < seconds:
        length = draw.expovariate(1 / mean) if exponential else mean
        found.append(Arrival(time, 1, max(2, round(length))))
    return found


@pytest.mark.parametrize("exponential", [True, False], ids=["M/M/1-PS", "M/D/1-PS"])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_processor_sharing_is_insensitive(load: float, exponential: bool) -> None:
    # E[T] = E[S]/(1 − ρ), whatever the distribution of lengths (Kleinrock, 1967).
    mean = 400
    trace = poisson(load / (mean * 0.001), 60_000, mean, exponential)
    setup = Setup(SHARING, max_sequences=10_000, interval=500)
    jobs = Fleet(setup, 1).run(trace, Fixed(1)).jobs
    served = sum(a.output_tokens for a in trace) / len(trace) * 0.001
    busy = sum(a.output_tokens for a in trace) * 0.001 / trace[-1].time
    measured = sum(job.finish - job.arrival for job in jobs) / len(jobs)
    assert measured == pytest.approx(served / (1 - busy), rel=0.08)


def test_little_s_law_holds_in_the_simulation() -> None:
    trace = generate(Synthetic(seconds=7200, rate=6))
    outcome = Fleet(Setup(REAL), 3).run(trace, Fixed(3))
    held = [sample.held + sample.queued for sample in outcome.samples]
    span = outcome.samples[-1].time
    rate = len(trace) / span
    stay = sum(job.finish - job.arrival for job in outcome.jobs) / len(outcome.jobs)
    assert sum(held) / len(held) == pytest.approx(rate * stay, rel=0.03)


def test_every_request_is_served_once_whatever_the_policy_does() -> None:
    trace = generate(Synthetic(seconds=1800, rate=6))
    draw = random.Random(5)
    outcome = Fleet(Setup(REAL, cold_start=20), 2).run(trace, lambda _: draw.randint(1, 8))
    assert len(outcome.jobs) == len(trace)
    for job, arrival in zip(outcome.jobs, trace, strict=True):
        assert job.arrival == arrival.time <= job.first_token <= job.finish
        assert job.computed == arrival.input_tokens


def test_a_step_takes_what_the_curve_says() -> None:
    outcome = Fleet(Setup(REAL), 1).run([Arrival(0.0, 100, 11)], Fixed(1))
    job = outcome.jobs[0]
    assert job.first_token == pytest.approx(REAL.step_seconds(100, 0, 0))
    steps = sum(REAL.step_seconds(0, 1, 100 + k) for k in range(10))
    assert job.finish - job.first_token == pytest.approx(steps)


def beside_a_prompt(stall_free: bool) -> Job:
    """Return a request of many tokens whose neighbour has a long prompt."""
    trace = [Arrival(0.0, 100, 20), Arrival(0.1, 8000, 2)]
    setup = Setup(REAL, tpot=0.05, stall_free=stall_free)
    return Fleet(setup, 1).run(trace, Fixed(1)).jobs[0]


def test_decoding_keeps_its_objective_beside_a_long_prompt() -> None:
    assert beside_a_prompt(stall_free=True).inside(ttft=2.0, tpot=0.05)
    assert not beside_a_prompt(stall_free=False).inside(ttft=2.0, tpot=0.05)


def test_a_prompt_alone_is_computed_in_whole_chunks() -> None:
    job = Fleet(Setup(REAL, tpot=0.02), 1).run([Arrival(0.0, 2048, 2)], Fixed(1)).jobs[0]
    assert job.first_token == pytest.approx(sum(REAL.step_seconds(1024, 0, c) for c in (0, 1024)))


def test_prompts_advance_however_tight_the_objective_is() -> None:
    trace = [Arrival(0.0, 100, 4000), Arrival(0.1, 3000, 2)]
    job = Fleet(Setup(REAL, tpot=0.01), 1).run(trace, Fixed(1)).jobs[1]
    # The objective is below what an empty step takes: half of the time is the prompt's.
    assert job.first_token - job.arrival == pytest.approx(2 * 3000 * REAL.b_p, rel=0.05)


def cost(outcome: Outcome) -> float:
    return outcome.replica_seconds


def test_perfect_foresight_meets_the_objective_for_less_than_a_fixed_number() -> None:
    trace = generate(Synthetic(seconds=5400, rate=8, swing=0.8, period=5400))
    setup = Setup(REAL)
    best = search(trace, setup, 0.99)
    assert best is not None
    assert best.attainment >= 0.99
    fixed = next(
        found
        for count in range(1, 20)
        if attainment(found := Fleet(setup, count).run(trace, Fixed(count)), setup) >= 0.99
    )
    assert cost(best.outcome) < cost(fixed)


def test_without_an_order_prompts_are_handed_over_as_they_come() -> None:
    trace = [Arrival(0.0, 20_000, 2) for _ in range(10)]

    def waits(*, in_order: bool) -> int:
        outcome = Fleet(Setup(REAL, in_order=in_order), 1).run(trace, Fixed(1))
        firsts = [job.first_token for job in outcome.jobs]
        assert firsts == sorted(firsts)
        return outcome.samples[0].queued

    assert waits(in_order=False) == 0
    assert waits(in_order=True) == 8


@pytest.mark.parametrize("policy", [Hpa(target=40), Kpa(target=40)], ids=["HPA", "KPA"])
def test_rivals_follow_the_load_up_and_down(policy: Hpa | Kpa) -> None:
    busy = [Arrival(600 + i / 20, 800, 200) for i in range(20 * 600)]
    trace = [Arrival(float(i), 800, 200) for i in range(600)] + busy
    trace += [Arrival(1200.0 + 5 * i, 800, 200) for i in range(300)]
    sizes = [s.desired for s in Fleet(Setup(REAL), 1).run(trace, policy).samples]
    assert sizes[100] == 1
    assert max(sizes) >= 4
    assert sizes[-1] == 1


def test_scaling_a_trace_keeps_its_shape() -> None:
    trace = generate(Synthetic(seconds=600, rate=5))
    more = scaled(trace, 2.5)
    assert len(more) == pytest.approx(2.5 * len(trace), rel=0.05)
    assert more == sorted(more, key=lambda arrival: arrival.time)
    assert more[-1].time <= trace[-1].time + 1e-9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column input_tokens"),
        ("timestamp_s,input_tokens,output_tokens\n1,x,3\n", ":2: "),
    ],
)
def test_a_broken_trace_is_told_by_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read(file)


BOUNDS = "scaling: {maxReplicas: 8}"
SPEC = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: m}
spec:
  model: {uri: pvc://m}
  slo: {ttft: {quantile: "0.95", target: 2s}, tpot: {quantile: "0.95", target: 100ms}}
  pools: [{name: default, %s}]
"""
TRACE = "timestamp_s,input_tokens,output_tokens\n" + "".join(
    f"{i / 4},500,100\n" for i in range(1200)
)


def test_the_command_simulates_a_trace(tmp_path: Path) -> None:
    spec, trace, picture = tmp_path / "m.yaml", tmp_path / "t.csv", tmp_path / "p.png"
    spec.write_text(SPEC % "scaling: {minReplicas: 1, maxReplicas: 8}")
    trace.write_text(TRACE)
    arguments = ["simulate", str(spec), "--trace", str(trace), "--plot", str(picture)]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    assert "LittlesLaw" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_simulates_prefill_and_decode_pools(tmp_path: Path) -> None:
    spec, trace, picture = tmp_path / "m.yaml", tmp_path / "t.csv", tmp_path / "p.png"
    pools = f"role: Decode, {BOUNDS}}}, {{name: prompts, role: Prefill, {BOUNDS}"
    spec.write_text(SPEC % pools)
    trace.write_text(TRACE)
    arguments = ["simulate", str(spec), "--trace", str(trace), "--plot", str(picture)]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    first, second = (
        next(line.split() for line in result.output.splitlines() if line.split()[1:2] == [pool])
        for pool in ("prompts", "default")
    )
    assert first[0] == second[0] == "LittlesLaw"
    assert float(first[2]) > 0
    assert float(second[2]) > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("pool", "total"),
    [
        (BOUNDS, 19),
        (f"role: Decode, {BOUNDS}}}, {{name: prompts, role: Prefill, {BOUNDS}", 27),
    ],
    ids=["Unified", "Prefill and Decode"],
)
def test_each_run_of_the_trace_is_told(pool: str, total: int, tmp_path: Path) -> None:
    spec, trace, told = tmp_path / "m.yaml", tmp_path / "t.csv", list[tuple[int, int]]()
    spec.write_text(SPEC % pool)
    trace.write_text(TRACE)
    curve = "0.015,1e-4,1e-4,1e-7,400000"
    simulate(spec, trace, 1.0, curve, 60.0, None, None, lambda *run: told.append(run))
    assert told == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    ("pool", "options", "words"),
    [
        ("replicas: 2", [], "with `scaling`"),
        ("scaling: {maxReplicas: 8}}, {name: more, replicas: 1", [], "one Prefill and one Decode"),
        ("scaling: {maxReplicas: 8}", ["--curve", "1,2"], "--curve"),
        ("scaling: {maxReplicas: 8}", ["--cold-start", "soon"], "--cold-start"),
        ("scaling: {maxReplicas: 8}", ["--trace", "/nowhere.csv"], "--trace"),
    ],
)
def test_what_cannot_be_simulated_is_told_by_its_name(
    tmp_path: Path, pool: str, options: list[str], words: str
) -> None:
    spec = tmp_path / "m.yaml"
    spec.write_text(SPEC % pool)
    result = CliRunner().invoke(commands, ["simulate", str(spec), *options])
    assert result.exit_code == 2
    assert words in result.output


def test_what_serving_costs_apart_from_steps_delays_the_first_token_only() -> None:
    trace = generate(Synthetic(seconds=300, rate=3))
    plain, served = (
        Fleet(Setup(REAL, overhead=overhead), 2).run(trace, Fixed(2)).jobs
        for overhead in (0.0, 0.25)
    )
    for before, after in zip(plain, served, strict=True):
        assert after.arrival == before.arrival
        assert after.first_token == pytest.approx(before.first_token + 0.25)
        assert after.finish == pytest.approx(before.finish + 0.25)
