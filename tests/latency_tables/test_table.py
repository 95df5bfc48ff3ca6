"""The file format: saved tables load unchanged, anything else is an error of one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwnas.latency_tables
from hwnas.errors import InputError
from hwnas.latency_tables.files import MAX_BYTES
from hwnas.latency_tables.table import (
    DeviceProfile,
    LatencyTable,
    Measurement,
    OpSpec,
    json_schema,
)
from hwnas.latency_tables.timing import Protocol

DEFINITIONS = {"nor_conv_3x3": "ab12", "max_pool_3x3": "cd34"}
CONV = OpSpec("nor_conv_3x3", 16, 16, 32, 32)
POOL = OpSpec("max_pool_3x3", 16, 16, 32, 32, 2)
PROFILE = DeviceProfile(
    device="Test CPU",
    device_class="cpu",
    runtime="onnxruntime-cpu",
    dtype="float32",
    batch=1,
    threads=1,
    layout="NCHW",
    versions={"onnxruntime": "1.27.0", "python": "3.11.7"},
)


def measurement(p10_ms, median_ms=None, status="ok"):
    median_ms = p10_ms if median_ms is None else median_ms
    return Measurement(
        median_ms=median_ms, p10_ms=p10_ms, p90_ms=median_ms, rounds=10, status=status
    )


def make_table(
    rows=None, *, profile=PROFILE, statistic="p10", definitions=DEFINITIONS, created=None
):
    return LatencyTable.from_measurements(
        {CONV: measurement(0.5, 0.75), POOL: measurement(0.0625)} if rows is None else rows,
        device=profile,
        protocol=Protocol(),
        statistic=statistic,
        definitions=definitions,
        created=created,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.json"


@pytest.fixture
def saved(path):
    make_table().save(path)
    return path


def load_changed(saved, change):
    """Load the table after `change` has been made to its JSON content."""
    content = json.loads(saved.read_text())
    change(content)
    saved.write_text(json.dumps(content))
    return LatencyTable.load(saved)


def load_or_error(path):
    """The table, or the InputError; any other exception fails the test."""
    try:
        return LatencyTable.load(path)
    except InputError as error:
        return error


specs = st.builds(
    OpSpec,
    st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable()),
    *[st.integers(1, 4096)] * 5,
)
measurements = st.lists(st.floats(0, 1e5), min_size=3, max_size=3).flatmap(
    lambda times: st.builds(
        Measurement,
        p10_ms=st.just(sorted(times)[0]),
        median_ms=st.just(sorted(times)[1]),
        p90_ms=st.just(sorted(times)[2]),
        rounds=st.integers(1, 1000),
        status=st.sampled_from(["ok", "noisy", "throttled", "timeout"]),
    )
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(specs, measurements, max_size=5))
def test_a_saved_table_loads_unchanged(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tables") / "table.json"
    table = make_table(rows)
    table.save(path)
    loaded = LatencyTable.load(path)
    assert loaded == table
    assert {spec: loaded.measurement(spec) for spec in loaded.specs()} == rows
    assert loaded.sha256 == table.sha256


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_damaged_text_raises_nothing_but_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tables") / "table.json"
    make_table().save(path)
    original = path.read_bytes()
    start = data.draw(st.integers(0, len(original)))
    length = data.draw(st.integers(0, 40))
    piece = data.draw(
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from(
                [b"NaN", b"-1", b"1e999", b"null", b"[[", b'{"a":1}', b'""', b"1" * 5000, b"true"]
            ),
        )
    )
    changed = original[:start] + piece + original[start + length :]
    path.write_bytes(changed)
    loaded = load_or_error(path)
    if isinstance(loaded, InputError):
        assert "\n" not in str(loaded)
        assert str(path) in str(loaded)
    else:
        # Only white space, the order of keys or the spelling of numbers can have changed.
        assert loaded == make_table()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_value_in_any_place_raises_nothing_but_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tables") / "table.json"
    make_table().save(path)
    content = json.loads(path.read_text())
    parent = data.draw(
        st.sampled_from(
            [
                content,
                content["device"],
                content["device"]["versions"],
                content["protocol"],
                content["operators"][0],
            ]
        )
    )
    key = data.draw(st.sampled_from(sorted(parent)) | st.text(max_size=5))
    parent[key] = data.draw(json_values)
    path.write_text(json.dumps(content))
    assert "\n" not in str(load_or_error(path))


def test_a_changed_number_does_not_match_the_hash(saved):
    text = saved.read_text()
    saved.write_text(text.replace("0.0625", "0.0605"))
    with pytest.raises(InputError, match=r"sha256: .*changed after it was saved, expected \w{64}"):
        LatencyTable.load(saved)


def test_white_space_and_key_order_do_not_matter(saved):
    content = json.loads(saved.read_text())
    saved.write_text(json.dumps(dict(reversed(content.items())), indent=8))
    assert LatencyTable.load(saved) == make_table()


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -3])
def test_a_truncated_file_is_refused(saved, keep):
    data = saved.read_bytes().rstrip()
    saved.write_bytes(data[:keep])
    with pytest.raises(InputError, match=r"table\.json: not a complete JSON file"):
        LatencyTable.load(saved)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("p10_ms", -0.5, r"operators\.1\.p10_ms: .*greater than or equal to 0, got -0\.5"),
        ("p10_ms", "0.5", r"operators\.1\.p10_ms: .*valid number, got '0\.5'"),
        ("p90_ms", 1e9, r"operators\.1\.p90_ms: .*less than or equal to 3600000"),
        ("p90_ms", float("nan"), r"operators\.1\.p90_ms: .*finite number, got nan"),
        ("p90_ms", float("inf"), r"operators\.1\.p90_ms: .*finite number, got inf"),
        ("median_ms", 0.25, r"operators\.1: p10_ms <= median_ms <= p90_ms does not hold"),
        ("rounds", 0, r"operators\.1\.rounds: .*greater than or equal to 1, got 0"),
        ("status", "fine", r"operators\.1\.status: .*'ok'.*got 'fine'"),
        ("height", 1.5, r"operators\.1\.height: .*integer.*got 1\.5"),
        ("median_us", 750.0, r"operators\.1\.median_us: unknown key, got 750\.0"),
    ],
)
def test_an_impossible_row_is_named(saved, key, value, expected):
    with pytest.raises(InputError, match=expected):
        load_changed(saved, lambda content: content["operators"][1].__setitem__(key, value))


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda c: c.update(schema=2), r"schema: unknown schema, expected 1, got 2; update hwnas"),
        (lambda c: c.update(schema=True), r"schema: unknown schema, expected 1, got True"),
        (lambda c: c.pop("schema"), r"schema: unknown schema, expected 1, got None"),
        (lambda c: c.pop("sha256"), r"sha256: .*expected \w{64}, got None"),
        (lambda c: c.pop("definitions"), r"definitions: missing key"),
        (lambda c: c.update(note="hi"), r"note: unknown key, got 'hi'"),
        (lambda c: c.update(created="yesterday"), r"created: .*yesterday"),
        (lambda c: c["device"].update(batch=0), r"device\.batch: .*or equal to 1, got 0"),
        (lambda c: c["device"].update(device_class="tpu"), r"device\.device_class: .*got 'tpu'"),
        (lambda c: c["protocol"].update(block_ms=0), r"protocol\.block_ms: .*than 0, got 0"),
        (lambda c: c["protocol"].update(max_repeats=-1), r"protocol\.max_repeats: .*to 0, got -1"),
        (lambda c: c["operators"].append(c["operators"][0]), r"rows 0 and 2 are both max_pool_3x3"),
        (lambda c: c.update(statistic="mean"), r"row 0 has no mean"),
    ],
)
def test_an_invalid_entry_is_named(saved, change, expected):
    with pytest.raises(InputError, match=expected) as caught:
        load_changed(saved, change)
    assert str(saved) in str(caught.value)


def test_a_key_that_appears_twice_is_refused(saved):
    saved.write_text(saved.read_text().replace('"schema": 1,', '"schema": 1, "schema": 1,'))
    with pytest.raises(InputError, match=r"schema.*a key appears twice"):
        LatencyTable.load(saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "1", "\ufeff{}"])
def test_deep_or_foreign_json_is_refused(path, text):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="table.json"):
        LatencyTable.load(path)


def test_a_file_too_large_is_refused_before_it_is_parsed(path):
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="too large"):
        LatencyTable.load(path)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "pipe", "a\0b"):
        with pytest.raises(InputError):
            LatencyTable.load(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(saved, monkeypatch, call):
    before = saved.read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, disk_full)
    with pytest.raises(InputError, match="No space left on device"):
        make_table({}).save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_into_no_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot write the file"):
        make_table().save(tmp_path / "absent" / "table.json")


def test_latency_follows_the_statistic():
    quantiles = Measurement(p10_ms=0.5, median_ms=0.75, p90_ms=2.0, rounds=10, status="ok")
    assert make_table({CONV: quantiles}, statistic="p10").latency_ms(CONV) == 0.5
    assert make_table({CONV: quantiles}, statistic="median").latency_ms(CONV) == 0.75
    mean = Measurement(mean_ms=1.5, rounds=10, status="ok")
    assert make_table({CONV: mean}, statistic="mean").latency_ms(CONV) == 1.5


def test_looking_up_a_missing_row_is_an_error():
    with pytest.raises(InputError, match="sep_conv_3x3 16>16 14x14 s1"):
        make_table().latency_ms(OpSpec("sep_conv_3x3", 16, 16, 14, 14))


def test_require_names_what_is_missing_and_the_command():
    table = make_table()
    table.require([CONV, POOL], "measure")
    absent = [OpSpec("conv", 1, 1, size, size) for size in (9, 8, 7, 6, 6)]
    assert table.missing([CONV, *absent]) == sorted(set(absent))
    with pytest.raises(InputError, match=r"lacks 4 operator.*conv 1>1 6x6 s1.*`measure table`"):
        table.require([CONV, *absent], "measure table")


def test_a_table_with_other_settings_is_refused_with_each_difference():
    table = make_table()
    table.require_device(PROFILE.model_copy(update={"versions": {}}))
    here = PROFILE.model_copy(update={"batch": 8, "device": "Other CPU"})
    with pytest.raises(InputError) as caught:
        table.require_device(here)
    assert "device: expected 'Other CPU', got 'Test CPU'" in str(caught.value)
    assert "batch: expected 8, got 1" in str(caught.value)


def test_merge_keeps_the_newer_rows():
    old = make_table({CONV: measurement(1.0), POOL: measurement(2.0)}, created="2026-01-01")
    new = make_table({CONV: measurement(3.0)}, created="2026-02-01")
    merged = old.merge(new)
    assert (merged.latency_ms(CONV), merged.latency_ms(POOL)) == (3.0, 2.0)
    assert merged.created == "2026-02-01"


@pytest.mark.parametrize(
    "options",
    [
        {"profile": PROFILE.model_copy(update={"threads": 2})},
        {"profile": PROFILE.model_copy(update={"versions": {"onnxruntime": "1.28.0"}})},
        {"statistic": "median"},
        {"definitions": DEFINITIONS | {"nor_conv_3x3": "other"}},
    ],
)
def test_tables_with_different_settings_are_not_merged(options):
    with pytest.raises(InputError, match="cannot be merged"):
        make_table().merge(make_table(**options))


def test_diff_pairs_shared_rows():
    other = make_table({CONV: measurement(1.0), OpSpec("conv", 1, 1, 1, 1): measurement(9.0)})
    assert make_table().diff(other) == [(CONV, 0.5, 1.0)]


def test_op_spec_prints_as_documented_and_sorts():
    assert str(OpSpec("sep_conv_3x3", 16, 16, 14, 14)) == "sep_conv_3x3 16>16 14x14 s1"
    assert sorted([CONV, POOL]) == [POOL, CONV]


def test_published_schema_is_current_and_describes_a_saved_file(saved):
    published = Path(hwnas.latency_tables.__file__).with_name("schema.json")
    assert json.loads(published.read_text()) == json_schema()
    jsonschema.validate(json.loads(saved.read_text()), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1}, json_schema())


def test_reading_a_table_imports_neither_torch_nor_onnxruntime():
    code = (
        "import sys, hwnas.latency_tables\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
