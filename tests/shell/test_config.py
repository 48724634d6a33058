"""Settings: who wins, what is refused and in which words, and that no secret is ever shown."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synceventsd import config
from synceventsd.config import SETTINGS, Config, ConfigError, TcpBind, UnixBind, load

SECRET = "correct-horse-battery-staple-0123456789"


def toml(tmp_path: Path, content: str) -> Path:
    file = tmp_path / "synceventsd.toml"
    file.write_text(content)
    return file


def problems(environ: dict[str, str], file: Path | None = None, flags: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load(flags or {}, environ, file)
    return refused.value.problems


def variable(name: str) -> str:
    return SETTINGS[name].variable


def test_defaults_are_those_of_the_contract() -> None:
    settings = load({}, {"STATE_DIRECTORY": "/state"}, None)
    assert settings == Config(storage=config.StorageConfig(state_dir=Path("/state")))
    assert config.dump(settings).splitlines() == [
        'ingest.socket = "/run/synceventsd/synceventsd.sock"',
        'ingest.socket_mode = "0660"',
        'ingest.socket_group = "none"',
        "ingest.max_frame = 262144",
        "ingest.max_clients = 1024",
        "ingest.max_clients_per_user = 0",
        "ingest.max_rate = 0",
        "ingest.extra_types = []",
        "ingest.allow_users = []",
        "ingest.allow_groups = []",
        "ingest.rules = []",
        'storage.state_dir = "/state"',
        'storage.durability = "power"',
        "storage.max_bytes = 4294967296",
        "storage.retain_bytes = 1073741824",
        "storage.retain_seconds = 604800",
        'redis.url = "redis://127.0.0.1:6379/0"',
        'redis.channel = "probability:integrations:orders:sync:events"',
        'redis.password_file = "none"',
        "redis.timeout = 5",
        "redis.backlog_rate = 10000",
        'http.bind = "127.0.0.1:8787"',
        'http.base_path = ""',
        "http.allowed_hosts = []",
        "http.cors_origins = []",
        'http.token_secret_file = "none"',
        "http.max_streams = 4096",
        "http.keep_alive = 15",
        "http.send_timeout = 30",
        "http.retry = 3",
        "status.stalled_after = 900",
        "shutdown.grace = 10",
        'logging.level = "info"',
        'logging.format = "auto"',
    ]


def test_every_default_is_a_value_its_own_rule_allows() -> None:
    for setting in SETTINGS.values():
        assert setting.rule.shown(setting.rule.check(setting.default)) == setting.default, setting.name


def test_flag_goes_before_environment_before_file_before_default(tmp_path: Path) -> None:
    file = toml(tmp_path, '[http]\nbind = "127.0.0.1:1"\nretry = 1\nkeep_alive = 1\n')
    environ = {"SYNCEVENTSD_HTTP_BIND": "127.0.0.1:2", "SYNCEVENTSD_HTTP_RETRY": "2"}
    http = load({"http.bind": "127.0.0.1:3"}, environ, file).http
    assert (http.bind, http.retry, http.keep_alive, http.send_timeout) == (TcpBind("127.0.0.1", 3), 2.0, 1.0, 30.0)


def test_every_setting_can_stand_in_the_environment_in_the_form_of_the_dump() -> None:
    settings = load({}, {}, None)
    printed = {
        line.partition(" = ")[0]: tomllib.loads(f"x = {line.partition(' = ')[2]}")["x"] for line in lines(settings)
    }
    assert printed.keys() == SETTINGS.keys()
    texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in printed.items()}
    assert load({}, {variable(name): text for name, text in texts.items()}, None) == settings


def lines(settings: Config) -> list[str]:
    return config.dump(settings).splitlines()


def test_the_dump_is_toml_that_gives_the_same_settings_again(tmp_path: Path) -> None:
    environ = {
        "SYNCEVENTSD_INGEST_EXTRA_TYPES": "integration.sync.paused, x.y",
        "SYNCEVENTSD_INGEST_ALLOW_USERS": "root,1000",
        "SYNCEVENTSD_INGEST_SOCKET_MODE": "0600",
        "SYNCEVENTSD_INGEST_RULES": '[{"user":"root","integrations":[0,13],"businesses":[42,"global"]},'
        '{"group":"0","integrations":["*"],"businesses":["*"]}]',
        "SYNCEVENTSD_HTTP_BIND": "[::1]:80",
        "SYNCEVENTSD_HTTP_CORS_ORIGINS": "https://Shop.example:443,http://localhost:3000",
        "SYNCEVENTSD_REDIS_TIMEOUT": "0.25",
        "SYNCEVENTSD_REDIS_URL": "none",
    }
    settings = load({}, environ, None)
    assert settings.http.cors_origins == ("https://shop.example", "http://localhost:3000")
    assert load({}, {}, toml(tmp_path, config.dump(settings))) == settings


def test_rules_stand_in_the_file_as_tables_and_each_fault_of_them_is_a_line(tmp_path: Path) -> None:
    good = toml(
        tmp_path,
        '[[ingest.rules]]\nuser = "root"\nintegrations = [13]\nbusinesses = [42, "global"]\n'
        '[[ingest.rules]]\ngroup = "root"\nintegrations = ["*"]\nbusinesses = ["*"]\n',
    )
    assert load({}, {}, good).ingest.rules == (
        config.PublishRule("root", None, (13,), (42, "global")),
        config.PublishRule(None, "root", ("*",), ("*",)),
    )
    bad = toml(
        tmp_path,
        '[[ingest.rules]]\nuser = "root"\nintegrations = [13]\nbusinesses = [42]\n'
        '[[ingest.rules]]\nuser = "no-such-user"\nintegrations = [-1]\nbusinesses = ["all"]\n'
        '[[ingest.rules]]\nuser = "root"\nintegrations = ["*"]\n',
    )
    told = problems({}, bad)
    assert all(line.startswith("ingest.rules = ") and "allowed: " in line for line in told)
    faults = [line.partition(": rule ")[2].partition(";")[0] for line in told]
    assert faults == [
        "2: there is no user 'no-such-user'",
        "2: integrations holds -1, which is no id from 0 to 4294967295",
        "2: businesses holds 'all', which is no id from 1 to 4294967295",
        '3: businesses must be a list of ids, or ["*"]',
    ]


def test_all_problems_are_told_at_once_one_line_each_with_name_origin_value_and_what_is_allowed(tmp_path: Path) -> None:
    file = toml(tmp_path, "[redis]\ntimeout = -1\ntimoeut = 3\n[htpp]\nx = 1\n[ingest]\nmax_frame = 1.5\n")
    environ = {"SYNCEVENTSD_LOGGING_LEVEL": "loud", "SYNCEVENTSD_REDIS_CHANEL": "c"}
    told = problems(environ, file, {"http.bind": "nowhere"})
    assert told == (
        f'htpp (from file "{file}"): unknown section; did you mean http?',
        'SYNCEVENTSD_REDIS_CHANEL = "c" (from environment): unknown variable; did you mean SYNCEVENTSD_REDIS_CHANNEL?',
        f'ingest.max_frame = 1.5 (from file "{file}"): allowed: an integer (bytes), 64 to 67108864',
        f'redis.timeout = -1 (from file "{file}"): allowed: seconds, a number above 0 and at most 1000000000',
        f'redis.timoeut = 3 (from file "{file}"): unknown setting; did you mean redis.timeout?',
        'http.bind = "nowhere" (from flag --http): allowed: "HOST:PORT", "[IPV6]:PORT", "unix:PATH" or "none"',
        'logging.level = "loud" (from environment variable SYNCEVENTSD_LOGGING_LEVEL): '
        "allowed: debug, info, warning or error",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ingest.socket", ""),
        ("ingest.socket", "/" + "x" * 107),
        ("ingest.socket_mode", "0680"),
        ("ingest.socket_mode", "1777"),
        ("ingest.socket_group", "no-such-group"),
        ("ingest.max_frame", "0"),
        ("ingest.max_frame", "1e6"),
        ("ingest.max_frame", "1_000_000"),
        ("ingest.max_clients", "0"),
        ("ingest.extra_types", "a b"),
        ("ingest.extra_types", "x\nevent: forged"),
        ("ingest.extra_types", "gap"),
        ("ingest.extra_types", "a,,b"),
        ("ingest.allow_users", "no-such-user"),
        ("ingest.allow_users", "4294967295"),
        ("ingest.allow_groups", "no-such-group"),
        ("ingest.max_clients_per_user", "-1"),
        ("ingest.max_rate", "1.5"),
        ("ingest.rules", "root"),
        ("ingest.rules", "[1"),
        ("ingest.rules", "[1]"),
        ("ingest.rules", '{"user":"root","integrations":[1],"businesses":[1]}'),
        ("ingest.rules", '[{"integrations":[1],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":"root","group":"root","integrations":[1],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":"no-such-user","integrations":[1],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":0,"integrations":[1],"businesses":[1]}]'),
        ("ingest.rules", '[{"group":"no-such-group","integrations":[1],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":"root","integrations":[1]}]'),
        ("ingest.rules", '[{"user":"root","integrations":[],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":"root","integrations":"*","businesses":[1]}]'),
        ("ingest.rules", '[{"user":"root","integrations":["global"],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":"root","integrations":[true],"businesses":[1]}]'),
        ("ingest.rules", '[{"user":"root","integrations":[1],"businesses":[0]}]'),
        ("ingest.rules", '[{"user":"root","integrations":[1],"businesses":[4294967296]}]'),
        ("ingest.rules", '[{"user":"root","integrations":[1],"businesses":[1],"business":2}]'),
        ("ingest.rules", "[" * 100000),
        ("storage.state_dir", ""),
        ("storage.durability", "none"),
        ("storage.max_bytes", "0"),
        ("storage.max_bytes", str(2**63)),
        ("storage.retain_bytes", "-1"),
        ("storage.retain_seconds", "0"),
        ("redis.url", ""),
        ("redis.url", "localhost"),
        ("redis.url", "http://localhost"),
        ("redis.url", "REDIS://localhost"),
        ("redis.url", "redis://localhost:port"),
        ("redis.url", "redis://localhost:65536"),
        ("redis.url", "redis://localhost/zero"),
        ("redis.url", "redis://localhost?db=x"),
        ("redis.url", "redis://localhost?no_such_option=1"),
        ("redis.url", "redis://[::1"),
        ("redis.url", "unix://"),
        ("redis.channel", ""),
        ("redis.channel", "a\nb"),
        ("redis.timeout", "nan"),
        ("redis.timeout", "inf"),
        ("redis.timeout", "true"),
        ("redis.timeout", "5s"),
        ("redis.backlog_rate", "-1"),
        ("http.bind", "8787"),
        ("http.bind", ":8787"),
        ("http.bind", "127.0.0.1"),
        ("http.bind", "127.0.0.1:65536"),
        ("http.bind", "127.0.0.256:80"),
        ("http.bind", "::1:80"),
        ("http.bind", "[127.0.0.1]:80"),
        ("http.bind", "unix:"),
        ("http.base_path", "api"),
        ("http.base_path", "/"),
        ("http.base_path", "/api/"),
        ("http.base_path", "/api//v1"),
        ("http.allowed_hosts", "shop.example:80"),
        ("http.allowed_hosts", "*"),
        ("http.cors_origins", "*"),
        ("http.cors_origins", "null"),
        ("http.cors_origins", "shop.example"),
        ("http.cors_origins", "https://shop.example/"),
        ("http.cors_origins", "https://user@shop.example"),
        ("http.token_secret_file", "/no/such/file"),
        ("http.token_secret_file", "/"),
        ("http.max_streams", "0"),
        ("http.keep_alive", "0"),
        ("http.send_timeout", "-1"),
        ("http.retry", ""),
        ("status.stalled_after", "soon"),
        ("shutdown.grace", "1e99"),
        ("logging.level", "INFO"),
        ("logging.format", "xml"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting_the_value_and_what_is_allowed(name: str, text: str) -> None:
    (told,) = problems({variable(name): text})
    assert told.startswith(f"{name} = ")
    assert f"(from environment variable {variable(name)})" in told
    assert "allowed: " in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ingest.max_frame", "true"),
        ("ingest.max_frame", '"1000"'),
        ("ingest.max_frame", "1000.0"),
        ("ingest.socket_mode", "660"),
        ("ingest.socket_mode", "true"),
        ("ingest.extra_types", '"a,b"'),
        ("ingest.allow_users", "[1000]"),
        ("ingest.allow_users", "true"),
        ("redis.timeout", "true"),
        ("redis.timeout", '"5"'),
        ("redis.timeout", "nan"),
        ("redis.timeout", "inf"),
        ("redis.timeout", "0x" + "f" * 6000),
        ("redis.url", '["redis://localhost"]'),
        ("redis.channel", "5"),
        ("http.bind", "8787"),
        ("http.base_path", "1979-05-27"),
        ("storage.state_dir", "[]"),
        ("logging.level", "{}"),
    ],
)
def test_the_file_is_read_strictly_nothing_is_coerced(tmp_path: Path, name: str, value: str) -> None:
    section, _, key = name.partition(".")
    (told,) = problems({}, toml(tmp_path, f"[{section}]\n{key} = {value}\n"))
    assert told.startswith(f"{name} = ")


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:0", TcpBind("127.0.0.1", 0)),
        ("localhost:80", TcpBind("localhost", 80)),
        ("[::1]:8787", TcpBind("::1", 8787)),
        ("unix:/run/x/http.sock", UnixBind(Path("/run/x/http.sock"))),
        ("none", None),
    ],
)
def test_http_binds_to_loopback_to_a_unix_socket_or_to_nothing(text: str, bind: TcpBind | UnixBind | None) -> None:
    assert load({"http.bind": text}, {}, None).http.bind == bind


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "shop.example:80", "[::ffff:127.0.0.1]:80"])
def test_any_other_address_stops_the_start_without_a_token_secret(tmp_path: Path, text: str) -> None:
    for environ in ({}, {"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": "none"}):
        (told,) = problems(environ, flags={"http.bind": text})
        assert told.startswith(f'http.bind = "{text}" (from flag --http): ')
        assert "http.token_secret_file" in told
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    environ = {"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": str(secret)}
    assert load({"http.bind": text}, environ, None).http.token_secret_file == secret


def test_a_contradiction_is_told_beside_the_other_faults_of_its_section() -> None:
    told = problems({"SYNCEVENTSD_HTTP_RETRY": "0"}, flags={"http.bind": "0.0.0.0:80"})
    assert [line.partition(" ")[0] for line in told] == ["http.retry", "http.bind"]
    # With the secret's file misspelt, that is the one thing to repair.
    told = problems({"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": "/no/such"}, flags={"http.bind": "0.0.0.0:80"})
    assert [line.partition(" ")[0] for line in told] == ["http.token_secret_file"]


def test_retention_fits_into_the_log() -> None:
    (told,) = problems({"SYNCEVENTSD_STORAGE_MAX_BYTES": "1000", "SYNCEVENTSD_STORAGE_RETAIN_BYTES": "1001"})
    assert told.startswith('storage.retain_bytes = "1001"')
    assert "at most storage.max_bytes, 1000" in told
    # Who only makes the log smaller need not think of retention.
    assert load({}, {"SYNCEVENTSD_STORAGE_MAX_BYTES": "1000"}, None).storage.retain_bytes == 1000


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_secret_file_is_refused_with_the_remedy(tmp_path: Path, content: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(content)
    for name in ("http.token_secret_file", "redis.password_file"):
        (told,) = problems({variable(name): str(secret)})
        assert str(secret) in told
        assert "it is empty; write the secret into it" in told


def test_a_secret_is_the_text_of_its_file_without_surrounding_white_space(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"\n {SECRET} with space \n")
    assert config.read_secret(secret) == f"{SECRET} with space"


def test_short_keys_and_secrets_that_all_may_read_are_concerns_not_problems(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("short")
    secret.chmod(0o644)
    settings = load({}, {"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": str(secret)}, None)
    short, readable = config.concerns(settings)
    assert "fewer than 32 bytes" in short
    assert "every user may read it" in readable
    secret.write_text(SECRET)
    secret.chmod(0o600)
    assert config.concerns(settings) == ()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hunter2@cache:6380/1", "redis://me:***@cache:6380/1"),
        ("rediss://:hunter2@cache", "rediss://:***@cache"),
        ("redis://hunter2@cache", "redis://***@cache"),
        ("redis://:hunter2@cache:99999", "redis://:***@cache:99999"),
        ("redis://:hun/ter2@cache", "redis://:***@cache"),
        ("redis://:hun#ter2@cache", "redis://:***@cache"),
        ("redis://:1?hunter2@cache", "redis://:***@cache"),
        ("redis://:hunter2", "redis://:***"),
        ("http://me:hunter2@cache", "http://me:***@cache"),
        ("me:hunter2@cache", "me:***@cache"),
        ("unix:///run/redis.sock?password=hunter2&db=1", "unix:///run/redis.sock?password=***&db=1"),
    ],
)
def test_a_password_in_a_url_is_masked_in_dump_repr_and_problem(url: str, shown: str) -> None:
    try:
        settings = load({"redis.url": url}, {}, None)
    except ConfigError as error:
        seen = str(error)
        assert f'redis.url = "{shown}" (from flag --redis-url)' in seen
    else:
        assert settings.redis.url == url
        seen = config.dump(settings) + repr(settings)
        assert f'redis.url = "{shown}"' in seen
    assert "hunter2" not in seen
    assert "ter2" not in seen


@given(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=6).filter(
        lambda text: "redis" not in text
    )
)
def test_no_password_whatever_its_characters_gets_into_a_problem_or_dump(password: str) -> None:
    marked = f"zq{password}qz"
    try:
        seen = config.dump(load({"redis.url": f"redis://user:{marked}@host/0"}, {}, None))
    except ConfigError as error:
        seen = str(error)
    assert "zq" not in seen
    assert "qz" not in seen


def test_the_value_of_an_unknown_setting_that_sounds_like_a_secret_is_not_shown(tmp_path: Path) -> None:
    told = problems({"SYNCEVENTSD_REDIS_PASSWORD": "hunter2"}, toml(tmp_path, '[redis]\npassword = "hunter2"\n'))
    assert len(told) == 2
    assert all("did you mean" in line and "hunter2" not in line for line in told)


def test_two_redis_passwords_are_one_too_many(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    environ = {"SYNCEVENTSD_REDIS_PASSWORD_FILE": str(secret), "SYNCEVENTSD_REDIS_URL": "redis://:hunter2@h"}
    (told,) = problems(environ)
    assert told.startswith("redis.password_file = ")


@pytest.mark.parametrize(
    "content", [b"[ingest", b"\xff", b"x = 1\nx = 1", b"a = " + b"[" * 100_000, b"[ingest]\nmax_frame = " + b"9" * 5000]
)
def test_a_file_that_is_no_toml_is_a_problem_and_the_rest_is_still_checked(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    of_file, of_environment = problems({"SYNCEVENTSD_HTTP_RETRY": "x"}, file)
    assert of_file.startswith(f'--config "{file}": not TOML: ')
    assert of_environment.startswith("http.retry")


def test_a_file_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    (told,) = problems({}, tmp_path / "missing.toml")
    assert "No such file or directory" in told


def test_a_section_that_is_a_value_is_a_problem(tmp_path: Path) -> None:
    (told,) = problems({}, toml(tmp_path, "redis = 5"))
    assert re.match(r"redis = 5 \(from file .*\): not a section", told)


def test_a_value_cannot_break_its_line() -> None:
    for told in problems({"SYNCEVENTSD_HTTP_RETRY": "1\nhttp.bind = ok\x1b[2J", "SYNCEVENTSD_X\ny": "\r\n"}):
        assert told.isprintable()


def test_the_state_directory_is_systemds_then_the_systems_then_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def state_dir(environ: dict[str, str]) -> str:
        return str(load({}, environ, None).storage.state_dir)

    both = {"STATE_DIRECTORY": "/a:/b", "HOME": "/home/me"}
    assert state_dir(both) == "/a"
    assert state_dir(both | {"SYNCEVENTSD_STORAGE_STATE_DIR": "/c"}) == "/c"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_dir({"HOME": "/root"}) == "/var/lib/synceventsd"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert state_dir({"HOME": "/home/me"}) == "/home/me/.local/state/synceventsd"
    assert state_dir({"HOME": "/home/me", "XDG_STATE_HOME": "/x"}) == "/x/synceventsd"
    assert state_dir({"HOME": "/home/me", "XDG_STATE_HOME": "relative"}) == "/home/me/.local/state/synceventsd"


def test_optional_settings_can_be_switched_off_by_a_stronger_source(tmp_path: Path) -> None:
    file = toml(tmp_path, '[ingest]\nsocket_group = "root"\nextra_types = ["x"]\n[http]\nbase_path = "/api"\n')
    environ = {
        "SYNCEVENTSD_INGEST_SOCKET_GROUP": "none",
        "SYNCEVENTSD_INGEST_EXTRA_TYPES": "",
        "SYNCEVENTSD_HTTP_BASE_PATH": "",
    }
    settings = load({}, environ, file)
    assert (settings.ingest.socket_group, settings.ingest.extra_types, settings.http.base_path) == (None, (), "")
