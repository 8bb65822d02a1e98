from rollout_core.jobs.redis_records import LIVE_SECONDS


def test_models_of_live_workers_with_their_specs(client, announce):
    announce("b", worker="w1", device="cuda:0")
    announce("a", worker="w2", ready=False)
    announce("gone", worker="w3", age_seconds=LIVE_SECONDS + 1)

    first, second = client.get("/v1/models").json()["models"]

    assert (first["name"], first["workers"], first["ready"]) == ("a", 1, 0)
    assert (second["name"], second["workers"], second["ready"]) == ("b", 1, 1)
    assert second["devices"] == ["cuda:0"]
    assert second["engines"] == ["fake"]
    assert second["spec"]["frames"] == 4
    assert (second["spec"]["height"], second["spec"]["width"]) == (32, 48)


def test_no_workers(client):
    assert client.get("/v1/models").json() == {"models": []}


def test_workers_that_serve_different_checkpoints_are_shown_and_refused(client, announce, mp4):
    announce(worker="w1", sha256="1" * 64)
    announce(worker="w2", sha256="2" * 64)

    (model,) = client.get("/v1/models").json()["models"]
    answer = client.post("/v1/jobs", files={"video": ("v.mp4", mp4)})

    assert model["checkpoints_differ"]
    assert (answer.status_code, answer.json()["code"]) == (503, "checkpoints_differ")
    assert int(answer.headers["retry-after"]) > 0


def test_before_a_worker_has_announced_itself_an_upload_may_be_tried_again(client, mp4):
    """At the start, and after Redis came back empty."""
    for request in ("{}", '{"model": "fake"}'):
        files = {"video": ("v.mp4", mp4), "request": (None, request)}
        answer = client.post("/v1/jobs", files=files)

        assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
        assert int(answer.headers["retry-after"]) > 0


def test_a_model_that_redis_has_forgotten_may_be_tried_again(client, announce, mp4, redis):
    announce("other", worker="w1")
    announce("fake", worker="w2")
    client.get("/readyz")
    redis.flushall()
    announce("other", worker="w1")
    client.app_state["services"].reconciler.reconcile()

    def post(model):
        files = {"video": ("v.mp4", mp4), "request": (None, f'{{"model": "{model}"}}')}
        return client.post("/v1/jobs", files=files).status_code

    assert (post("fake"), post("misspelt"), post("other")) == (503, 422, 202)
