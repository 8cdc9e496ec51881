.PHONY: test fast lint format demo

test: ## style and all tests
	bash run_tests.sh

fast: ## style and the tests that are not slow
	bash run_tests.sh --fast

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format:
	.venv/bin/ruff format .

demo:
	bash run_demo.sh
