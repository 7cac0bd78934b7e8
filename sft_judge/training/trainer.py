"""JudgeTrainer: train a judge from a model, settings and data sets, with the arguments of TRL's trainers."""

from pathlib import Path

from datasets import Dataset
from trl import SFTTrainer

from sft_judge.training.adapters import changes_base, check_start, keep_start
from sft_judge.training.base_model import check_whole_weights
from sft_judge.training.battle_datasets import battles_of
from sft_judge.training.callbacks import EmaCallback
from sft_judge.training.compute_metrics import verdict_metrics
from sft_judge.training.config import JudgeConfig
from sft_judge.training.dataset import TrainingData
from sft_judge.training.from_python import StartingPoint, prepare_run
from sft_judge.training.model_card import write_card
from sft_judge.training.preparation import EVAL, prepare_evaluation
from sft_judge.training.saving import push_judge, save_judge
from sft_judge.training.summary import trained_spec
from sft_judge.training.verdict_trainer import VerdictTrainer


class JudgeTrainer(VerdictTrainer):
    """
    Train a judge as TRL's trainers do, from a model, settings and data sets.

    Args:
        model: a folder, a Hub id, or a causal language model in memory. A model given by name is loaded from
            safetensors with `args.model_init_kwargs`, in float32 unless they say otherwise.
        args: a `JudgeConfig`; by default one with an `output_dir` named after the model.
        data_collator: by default one that pads rows, or concatenates them if `padding_free`.
        train_dataset: a `datasets.Dataset` of battles (`prompt`, `response_a`, `response_b`, and `verdict` or
            `winner`), of TRL's preference data (`chosen`, `rejected`, plain or conversational) or of a competition's
            columns that `sft-judge import` knows. The columns `teacher_a`, `teacher_b`, `teacher_tie` are an external
            teacher's probabilities. By default the battles of `args.battles`.
        eval_dataset: a data set as `train_dataset`, or several by name; by default the battles of `args.fold`.
        processing_class: the tokenizer; by default the model's own.
        compute_metrics: by default log loss, accuracy, calibration error and agreement of the two orders.
        callbacks: as in SFTTrainer.
        optimizers: as in SFTTrainer.
        peft_config: a `LoraConfig`, or None to train all weights.
        quantization_config: as in SFTTrainer.
        teacher_labels: probs or verdict files of teachers; by default those of `args.labels`.
        start: where a loaded model is from, if its configuration does not tell.

    Raises:
        InputError: a `ValueError` that says in one line which argument is invalid, or which do not fit together.
        GateError: labels are not proven out of fold.
    """

    _tag_names = ["trl", "judge"]

    def __init__(
        self,
        model,
        args: JudgeConfig | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        peft_config=None,
        quantization_config=None,
        teacher_labels=None,
        start: StartingPoint | None = None,
    ):
        if not isinstance(train_dataset, TrainingData):
            given = (model, args, train_dataset, eval_dataset, processing_class)
            run = prepare_run(*given, peft_config, quantization_config, teacher_labels)
            model, args, processing_class, train_dataset, start = run
        self.data, self.start, self.wants_push = train_dataset, start, args.push_to_hub
        super().__init__(
            model,
            args.with_changes(push_to_hub=False),  # Trainer would push each checkpoint
            processing_class=processing_class,
            verdict_ids=self.data.prompt.verdict_ids,
            data_collator=data_collator,
            train_dataset=self.data.train_set,
            eval_dataset=_sets_to_evaluate(self.data),
            compute_metrics=compute_metrics or self._figures,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        self.adapter_start = self._keep_adapter_start(peft_config)
        if args.ema_decay:
            check_whole_weights("ema_decay", args)
            self.add_callback(EmaCallback(args.ema_decay))

    def _keep_adapter_start(self, peft_config) -> Path | None:
        """Save the initial adapter if it changed the base's weights, to subtract it when the judge is saved."""
        if not changes_base(getattr(peft_config, "init_lora_weights", None)):
            return None
        check_start(peft_config.init_lora_weights, peft_config, self.model)
        check_whole_weights(f"init_lora_weights {peft_config.init_lora_weights}", self.args)
        start = Path(self.args.output_dir) / "start"
        if self.is_world_process_zero():
            keep_start(self.model, start)
        return start

    def train(self, *args, **kwargs):
        """
        Train as Trainer does. With `ema_decay`, evaluate the averaged weights at the end, because they are the ones
        saved.
        """
        trained = super().train(*args, **kwargs)
        if self.args.ema_decay and self.eval_dataset is not None:
            self.evaluate()
        return trained

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """
        Evaluate the judge.

        Args:
            eval_dataset: a data set of battles, several by name, or None for those that the trainer was created with.
            ignore_keys: as in Trainer.
            metric_key_prefix: as in Trainer.
        """
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: self._rows_of(each, f"eval_dataset {name}") for name, each in eval_dataset.items()}
        elif eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._rows_of(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test"):
        """
        Predict battles in both orders.

        Args:
            test_dataset: a data set of battles.
            ignore_keys: as in Trainer.
            metric_key_prefix: as in Trainer.

        Returns:
            A `PredictionOutput`: verdict logits [N, 2, K] in the order shown, targets, and metrics.
        """
        return super().predict(self._rows_of(test_dataset, "test_dataset"), ignore_keys, metric_key_prefix)

    def _rows_of(self, dataset, name: str) -> Dataset:
        if getattr(dataset, "column_names", ()) == self.train_dataset.column_names:
            return dataset
        rows, groups = prepare_evaluation(self.args, self.data.prompt, battles_of(dataset, name, self.args.seed))
        self.data.eval_groups[rows._fingerprint] = groups
        return rows

    def get_eval_dataloader(self, eval_dataset=None):
        self._evaluated = self._groups_of(self.eval_dataset if eval_dataset is None else eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        self._evaluated = self._groups_of(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def _groups_of(self, dataset):
        """Return the prompt groups [N] of the data set that is about to be evaluated."""
        name = dataset if isinstance(dataset, str) else getattr(dataset, "_fingerprint", None)
        return self.data.eval_groups.get(name, self.data.eval_groups.get(EVAL))

    def _figures(self, prediction) -> dict[str, float]:
        return verdict_metrics(prediction, self._evaluated)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Write the judge's folder: weights, tokenizer, judge.json and model card. Push it if `push_to_hub` is set.

        Args:
            output_dir: the folder; by default that of the settings.
        """
        if _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self.args.output_dir)
        save_judge(self, folder)
        if self.wants_push:
            self.push_to_hub("Model save")

    def create_model_card(self, model_name=None, dataset_name=None, tags=None) -> None:
        """
        Write the judge's model card into the output folder; checkpoints have none.

        Args:
            model_name: title of the card; by default the folder's name.
            dataset_name: not used.
            tags: not used.
        """
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            write_card(folder, model_name or folder.name, trained_spec(self, folder), self.args, self.data.sources())

    def _save_checkpoint(self, model, trial):
        super(SFTTrainer, self)._save_checkpoint(model, trial)  # skip SFTTrainer's, which writes its own model card

    def push_to_hub(self, commit_message: str | None = "End of training", blocking: bool = True, token=None, **kwargs):
        """
        Write the judge's folder and push it to `hub_model_id`, by default the folder's name in the user's namespace.

        Args:
            commit_message: message of the commit.
            blocking: not used; the call waits for the upload.
            token: Hub token; by default `hub_token` of the settings.

        Returns:
            The commit on the first process, None on the others.

        Raises:
            InputError: the Hub cannot be reached or refuses the upload.
        """
        folder = Path(self.args.output_dir)
        save_judge(self, folder)
        if self.is_world_process_zero():
            return push_judge(folder, self.args, commit_message, token)
        return None


def _sets_to_evaluate(data: TrainingData):
    """Return the evaluation sets as Trainer takes them: one data set, several by name, or None."""
    return data.eval_sets.get(EVAL) if set(data.eval_sets) <= {EVAL} else data.eval_sets
