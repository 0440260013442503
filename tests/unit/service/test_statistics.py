from service.statistics import Statistics


def test_stages_add_up_and_the_quotient_is_the_mean_batch() -> None:
    statistics = Statistics()
    statistics.executed(12, 0.004)
    statistics.succeeded(5, total_s=0.010, queue_s=0.001, input_s=0.002, infer_s=0.004)
    statistics.succeeded(7, total_s=0.012, queue_s=0.001, input_s=0.002, infer_s=0.004)
    document = statistics.document("ctr", 3, {"resident": 99})
    stages = document["inference_stats"]
    assert document["inference_count"] / document["execution_count"] == 12
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(stages[part]["ns"] for part in parts) == stages["success"]["ns"] == 22_000_000
    assert document["batch_stats"] == [
        {
            "batch_size": 12,
            "compute_input": {"count": 0, "ns": 0},
            "compute_infer": {"count": 1, "ns": 4_000_000},
            "compute_output": {"count": 0, "ns": 0},
        }
    ]
    assert document["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 99}]


def test_nothing_served_yet_is_zero() -> None:
    document = Statistics().document("ctr", 1, {})
    assert (document["inference_count"], document["last_inference"], document["batch_stats"]) == (0, 0, [])
