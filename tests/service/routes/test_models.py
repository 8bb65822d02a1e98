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
