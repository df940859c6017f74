"""What running sequences can bear beside a prompt, from scripted times."""

from mlx_lm.engine.pace import Pace, Work


def test_pieces_grow_to_what_running_sequences_can_bear():
    """Decoding lasts 6, a piece of n tokens 5 + n / 2."""
    pace = Pace()
    pace.decoded(2, 6.0)
    for _ in range(12):
        n = pace.piece(2)
        pace.worked(Work(n, 1, 5 + n / 2), 6.0)
    assert 6 <= pace.piece(2) <= 7  # 5 + 6.8 / 2 = 2.4 - 1 steps
    pace.worked(Work(pace.piece(2), 1, 30.0), 6.0)  # a hiccup, or a longer context
    assert pace.piece(2) <= 4
    pace.worked(Work(1, 1, 5.5), 6.0)  # the end of a prompt says nothing of larger pieces
    assert pace.piece(2) <= 4


def test_pieces_of_several_steps_take_as_many_layers_as_fit():
    pace = Pace(parts=8)
    pace.prefilled(100, 100.0)
    pace.decoded(1, 10.0)
    assert pace.piece(1) == 56  # 14 a step, eight steps, half of that
    assert pace.layers(56, 28, 0) == 3  # for all that is known, a piece of 56 lasts eight steps
    pace.worked(Work(0, 3, 6.0), 10.0)
    assert pace.layers(56, 28, 3) == 7  # a layer lasts 2
    pace.worked(Work(0, 7, 14.0), 10.0)
    pace.worked(Work(0, 1, 200.0), 10.0)
    assert pace.layers(56, 28, 11) == 1  # and never less
    pace.worked(Work(56, 17, 34.0), 10.0)
    assert pace.piece(1) == 28  # as 56 lasted 254
    assert pace.layers(28, 28, 0) == 7 and pace.layers(112, 28, 0) == 3  # fewer tokens may cost no less
    pace.worked(Work(0, 7, 7.0), 10.0)
    assert pace.layers(28, 28, 7) == 3  # this piece is twice as fast, but for what may come with the eleventh layer
    pace.worked(Work(0, 3, 3.0), 10.0)
    assert pace.layers(28, 28, 10) == 1
    assert pace.layers(28, 28, 0) == 10  # given up; the next piece knows how fast the first ten were


def test_a_piece_is_small_enough_for_its_dearest_layer():
    """Every fourth layer costs nine times as much as the others."""
    pace, costs = Pace(parts=8), [0.1, 0.1, 0.1, 0.9] * 4
    pace.prefilled(100, 50.0)
    pace.decoded(1, 10.0)
    sizes: list[int] = []
    for _ in range(40):
        pace.decoded(1, 10.0)
        tokens, at, longest = pace.piece(1), 0, 0.0
        while at < len(costs):
            layers = pace.layers(tokens, len(costs), at)
            seconds = tokens * sum(costs[at : at + layers])
            at += layers
            longest = max(longest, seconds)
            pace.worked(Work(tokens if at == len(costs) else 0, layers, seconds), 10.0)
        sizes.append(tokens)
        if len(sizes) > 5:
            assert longest <= 20.0 and sizes[-1] >= 15  # 14 is aimed at, and three times as long as without is 20


def test_now_and_then_a_step_shows_what_decoding_costs():
    pace = Pace()
    assert pace.piece(1) == 0  # nothing is known
    pace.decoded(2, 4.0)
    for _ in range(pace.look_again):
        assert pace.piece(2) >= pace.smallest
        pace.worked(Work(2, 1, 5.0), 4.0)
    assert pace.piece(2) == 0
    pace.decoded(2, 4.0)
    assert pace.piece(2) >= pace.smallest and pace.piece(3) == 0
    pace.decoded(3, 60.0)  # a hiccup is not what a third sequence costs
    assert pace.decode_seconds == 6.0
    pace.decoded(1, 3.0)
    assert pace.decode_seconds == 3.0
