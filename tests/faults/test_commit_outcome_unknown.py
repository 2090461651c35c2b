"""PostgreSQL commits, and the word of it is lost on its way."""

import time

from tests.faults.asking import UNKNOWN
from tests.faults.beside import proxy_before
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.faults.trial import Trial
from tests.support.proxy import Proxy
from tests.support.service import Service, poll_until


def test_commit_with_its_response_cut_is_outcome_unknown(open_trial: OpenTrial) -> None:
    trial = open_trial("commit's answer cut, predict")
    with proxy_before(trial.postgres) as proxy:
        service = trial.serve(proxy.port)
        cut_one_by_one(trial, proxy, service, None)
        trial.go_on("commit's answer cut, batch")
        cut_one_by_one(trial, proxy, service, 50)
        trial.go_on("commit's answer cut under load")
        cut_under_load(trial, proxy, service)


def cut_one_by_one(trial: Trial, proxy: Proxy, service: Service, count: int | None) -> None:
    for _ in trial.rounds(20, at_least=3):
        request = trial.journal.new_request(count, keyed=True)
        proxy.cut_commit()
        assert trial.probe(service.port, request).text == UNKNOWN
        assert proxy.has_cut()
        ended = time.monotonic()
        assert trial.probe(service.port, request).state == "ok"
        trial.until_recovered(service.port, since=ended)
    trial.conclude(service.port, UNKNOWN)


def cut_under_load(trial: Trial, proxy: Proxy, service: Service) -> None:
    with trial.load(service.port, mixes=[Mix(batch_every=3)]):
        for _ in trial.rounds(50, at_least=5):
            trial.until_stored(20)
            proxy.cut_commit()
            poll_until(proxy.has_cut, "a commit is cut")
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, UNKNOWN)
    assert verdict.whys[UNKNOWN] >= trial.times
