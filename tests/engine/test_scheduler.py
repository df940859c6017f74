"""The scheduler with scripted sequences: nothing is lost, nobody starves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.engine.pace import Pace, Work
from mlx_lm.engine.scheduler import Plan, Scheduler

POLICIES = ["fair", "prefill_first", "decode_first"]


@settings(max_examples=200, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    max_batch=st.integers(1, 4),
    step=st.integers(1, 40),
    arrivals=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 100), st.integers(1, 20), st.integers(-1, 1)), max_size=12
    ),
    cancel=st.sets(st.integers(0, 11)),
)
def test_every_sequence_ends(policy, max_batch, step, arrivals, cancel):
    scheduler = Scheduler(max_batch=max_batch, prefill_step=step, policy=policy, max_pause=5)
    todo = {i: new for i, (_, _, new, _) in enumerate(arrivals)}
    computed = dict.fromkeys(todo, 0)
    pending = sorted(range(len(arrivals)), key=lambda i: arrivals[i][0])
    for now in range(100_000):
        while pending and arrivals[pending[0]][0] <= now:
            uid = pending.pop(0)
            scheduler.add(uid, arrivals[uid][1], arrivals[uid][3])
        plan = scheduler.plan()
        if plan is None:
            if not pending:
                break
            continue
        scheduler.check()
        assert len(plan.decode) <= max_batch
        if plan.prefill is not None:
            assert 0 < plan.length <= step
            computed[plan.prefill] += plan.length
            if plan.prefill in cancel and computed[plan.prefill] > arrivals[plan.prefill][1] // 2:
                scheduler.remove(plan.prefill)
                todo.pop(plan.prefill)
                continue
            scheduler.prefilled(plan.prefill, plan.length)
        for uid in plan.decode:
            todo[uid] -= 1
            if todo[uid] == 0:
                scheduler.remove(uid)
                todo.pop(uid)
    assert not todo and not scheduler.waiting and not scheduler.running


def test_prefill_first_pauses_decoding_for_a_bounded_time():
    scheduler = Scheduler(max_batch=8, prefill_step=10, policy="prefill_first", max_pause=3)
    scheduler.add(0, 1)
    scheduler.prefilled(0, scheduler.plan().length)
    scheduler.add(1, 1000)
    decoded = []
    for _ in range(12):
        plan = scheduler.plan()
        decoded.append(bool(plan.decode))
        scheduler.prefilled(plan.prefill, plan.length)
    assert decoded == [False, False, False, True] * 3


def test_decode_first_computes_prompts_only_when_nothing_decodes():
    scheduler = Scheduler(policy="decode_first", prefill_step=10)
    scheduler.add(0, 5)
    scheduler.prefilled(0, scheduler.plan().length)
    scheduler.add(1, 5)
    assert scheduler.plan().prefill is None
    scheduler.remove(0)
    assert scheduler.plan().prefill == 1


def test_priority_goes_first():
    scheduler = Scheduler()
    scheduler.add(0, 5)
    scheduler.add(1, 5, priority=1)
    assert scheduler.plan().prefill == 1


@settings(max_examples=40, deadline=None)
@given(
    decode=st.floats(1e-3, 1e-1),
    token=st.floats(1e-6, 1e-3),
    fixed=st.floats(0.0, 1.2),
    slower=st.floats(1.0, 1.2),
    depth=st.floats(0.0, 8.0),
    streams=st.integers(1, 8),
    parts=st.sampled_from([1, 8]),
    uneven=st.sampled_from([1, 3]),
)
def test_fair_steps_last_at_most_three_times_an_idle_one(decode, token, fixed, slower, depth, streams, parts, uneven):
    """A 32k prompt beside running streams, in virtual time: a piece costs `fixed` decode steps, at the prompt's end
    `depth` more, and its tokens; decoding beside it lasts `slower` times as long. In 30 layers, of which every fifth
    costs `uneven` times as much as the others, or all at once."""
    pace, count = Pace(parts=parts), 30
    depth = min(depth, 12 / uneven) if parts > 1 else 0.0
    scheduler = Scheduler(prefill_step=2048, policy="fair", pace=pace)
    for uid in range(streams):
        scheduler.add(uid, 1)
        pace.prefilled(1, token + fixed * decode)
        while uid in scheduler.waiting:
            plan = scheduler.plan()
            if plan.prefill is None:
                pace.decoded(uid, decode)
            else:
                scheduler.prefilled(uid, plan.length)
    for _ in range(20):  # idle
        assert scheduler.plan() == Plan(None, 0, tuple(range(streams)))
        pace.decoded(streams, decode)
    scheduler.add(99, 32_768)
    shares = [uneven if i % 5 == 4 else 1 for i in range(count)]
    slow, steps, without, length, left, done = 0, 0, 0, 0, 0, 0
    while 99 in scheduler.waiting:
        plan = scheduler.plan()
        assert plan.decode == tuple(range(streams))  # every stream gets a token in every step
        steps += 1
        assert steps < 60_000
        if plan.prefill is None:
            pace.decoded(streams, decode)
            without += 1
            continue
        if not left:
            length, left = plan.length, count
        layers = min(pace.layers(length, count, count - left), left) if parts > 1 else count
        share = sum(shares[count - left : count - left + layers]) / sum(shares)
        left -= layers
        cost = (fixed * decode + depth * decode * done / 32_768 + length * token) * share
        pace.worked(Work(0 if left else length, layers if parts > 1 else 1, cost), slower * decode)
        if not left:
            scheduler.prefilled(99, length)
            done += length
        # A piece has at least `smallest` tokens and a step one layer, or the prompt would never end.
        if length > pace.smallest and (layers > 1 or parts == 1) and steps > 60:
            slow += cost + slower * decode > 3 * decode
    assert slow <= (0 if uneven == 1 else steps / 10)  # what single layers cost is found out on the way
    assert without <= steps / pace.look_again


@settings(max_examples=20, deadline=None)
@given(pause=st.integers(1, 70), arrivals=st.integers(1, 3), step=st.integers(1, 64))
def test_a_steady_stream_of_prompts_cannot_starve_decoders(pause, arrivals, step):
    scheduler = Scheduler(max_batch=1000, prefill_step=step, policy="prefill_first", max_pause=pause)
    scheduler.add(0, 1)
    scheduler.prefilled(0, scheduler.plan().length)
    waited, longest, uid = 0, 0, 1
    for _ in range(250):
        for _ in range(arrivals):
            scheduler.add(uid, 40)
            uid += 1
        plan = scheduler.plan()
        waited = 0 if 0 in plan.decode else waited + 1
        longest = max(longest, waited)
        if plan.prefill is not None:
            scheduler.prefilled(plan.prefill, plan.length)
        if len(scheduler.running) > 900:
            break
    assert longest <= pause


def test_a_full_batch_decodes_whatever_waits():
    scheduler = Scheduler(max_batch=2, prefill_step=10, policy="prefill_first")
    for uid in range(5):
        scheduler.add(uid, 5)
    for _ in range(2):
        plan = scheduler.plan()
        scheduler.prefilled(plan.prefill, plan.length)
    assert scheduler.plan() == Plan(None, 0, (0, 1))
