"""What the keys of other tools are called here.

A key of another tool is never taken silently: its values often mean something else. The finding names our key and,
where it helps, how to write the value. Collected from the configurations that users of LLaMA-Factory, Axolotl, TRL,
Unsloth, torchtune and mlx-lm write.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """`key` is ours, dotted; None where nothing needs to be said. `advice` is how to write it."""

    key: str | None
    advice: str = ""


PERCENT = "write a share as `3%` or a number of steps"
CADENCE = "write it with its unit, such as `100 steps` or `1 epoch`"
ALWAYS = "leave it out: rows are packed wherever that gives the same result"
MEMORY = "leave it out: it is used when memory asks for it"
QLORA = "write `method: {type: qlora, bits: 4}`, or bits: 8"
STEP = "batch_size × gradient_accumulation_steps = examples per step, over all devices"
PRECISION = "write `bfloat16`, `float32` or `auto`"
OBJECTIVE = "write `sft`, `pretrain` or `auto`"
LEARNED = "write `assistant` (answers only) or `all`"
KIND = "write such as `lora`, `qlora` or `full`, or `auto`"


def _table(rows: dict[str, tuple[str | None, str]]) -> dict[str, Foreign]:
    return {name: Foreign(key, advice) for names, (key, advice) in rows.items() for name in names.split()}


FOREIGN = _table(
    {
        # model
        "model_name_or_path model_name base_model model_id pretrained_model_name_or_path": ("model.path", ""),
        "model_revision revision_of_model model_commit": ("model.revision", ""),
        "adapter_name_or_path lora_model_dir adapter_path adapter_file resume_adapter_file": ("model.adapter", ""),
        "bf16 fp16 fp32 tf32 pure_bf16 torch_dtype precision compute_dtype half_precision": ("model.dtype", PRECISION),
        "trust_remote_code": (None, "leave it out: code from a model's repository is never run"),
        # data
        "dataset datasets dataset_path dataset_name dataset_dir data_path data_dir data_files train_file train_data": (
            "data.path",
            "",
        ),
        "dataset_format data_format formatting": ("data.format", ""),
        "column_mapping field_messages message_property_mappings": ("data.columns", ""),
        "dataset_text_field text_field text_column prompt_field completion_field": (
            "data.columns",
            "write your column names, such as `{text: body}` or `{prompt: question, response: answer}`",
        ),
        "chat_template prompt_template chat_template_jinja": ("data.template", ""),
        "train_on_inputs train_on_prompt": ("data.train_on", LEARNED),
        "mask_prompt mask_inputs completion_only_loss assistant_only_loss train_on_responses_only mask_history": (
            "data.train_on",
            LEARNED,
        ),
        "train_split dataset_split": ("data.split", ""),
        "val_set_size val_size test_size eval_split_ratio validation_split eval_dataset test_datasets val_data": (
            "data.validation",
            "write a percentage, a number of rows or a file",
        ),
        "max_seq_length sequence_len sequence_length cutoff_len max_seq_len model_max_length context_length seq_len": (
            "data.max_length",
            "",
        ),
        "excess_length_strategy truncation": ("data.too_long", "write `drop`, `truncate`, `split` or `error`"),
        "dataset_exact_deduplication": ("data.dedupe", "write `exact`, `near` or `none`"),
        "max_samples": (None, "leave it out, or give a smaller file as `data.path`"),
        "sample_packing packing neat_packing pad_to_sequence_len group_by_length packing_strategy": (None, ALWAYS),
        "eval_packing eval_sample_packing padding_free": (None, ALWAYS),
        "preprocessing_num_workers dataset_num_proc dataloader_num_workers dataset_processes": (
            None,
            "leave it out: reading uses what the machine has",
        ),
        "overwrite_cache dataset_prepared_path": (None, "leave it out: the cache knows its content"),
        # method
        "finetuning_type fine_tune_type peft_type peft_method use_peft tuner_type": ("method.type", KIND),
        "adapter": ("method.type", f"{KIND}; an adapter to continue from is model.adapter"),
        "load_in_4bit load_in_8bit quantization_bit quantization use_qlora": ("method.type", QLORA),
        "full_finetuning": ("method.type", KIND),
        "lora_r lora_rank rank lora_dim": ("method.r", ""),
        "lora_alpha": ("method.alpha", ""),
        "scale lora_scale": ("method.alpha", "alpha = scale × r"),
        "lora_dropout": ("method.dropout", ""),
        "lora_target lora_target_modules lora_target_linear lora_modules lora_attn_modules peft_layers": (
            "method.target_modules",
            "`auto` = all linear layers of the blocks",
        ),
        "lora_parameters lora": (None, "write `r`, `alpha`, `dropout` and `target_modules` under `method:`"),
        "num_layers lora_layers layers_to_transform": (None, "leave it out: all layers get an adapter"),
        "use_rslora": ("method.type", "write `rslora`"),
        "use_dora": ("method.type", "write `dora`"),
        "loraplus_lr_ratio": ("method.lora_plus", ""),
        "pissa_init init_lora_weights": ("method.init", "`pissa`, `olora`, or `loftq` for qlora"),
        "loftq_init loftq_config": ("method.init", "`loftq`, for qlora"),
        "lora_modules_to_save additional_target": ("method.modules_to_save", ""),
        "additional_special_tokens new_special_tokens add_tokens": ("model.new_tokens", ""),
        # training
        "stage rl training_type trainer_type": ("training.objective", OBJECTIVE),
        "lr peak_lr": ("training.learning_rate", ""),
        "per_device_train_batch_size micro_batch_size train_batch_size per_device_batch_size": (
            "training.batch_size",
            STEP,
        ),
        "gradient_accumulation grad_accumulation_steps grad_accum accumulate_grad_batches": (
            "training.gradient_accumulation_steps",
            STEP,
        ),
        "num_train_epochs num_epochs n_epochs max_epochs": ("training.epochs", ""),
        "iters max_iters num_steps total_steps": ("training.max_steps", ""),
        "lr_scheduler_type lr_scheduler lr_schedule": ("training.scheduler", "such as `cosine` or `linear`"),
        "warmup_ratio warmup_steps num_warmup_steps": ("training.warmup", PERCENT),
        "gradient_clipping max_gradient_norm clip_grad_norm grad_clip": ("training.max_grad_norm", ""),
        "optim optimizer_type optimizer_name": ("training.optimizer", "such as `adamw` or `adamw_8bit`"),
        "neftune_noise_alpha noisy_embedding_alpha neft_alpha": ("training.neftune_alpha", ""),
        "min_lr_rate lr_min_ratio cosine_min_lr_ratio": ("training.min_lr_ratio", ""),
        "freeze_layers freeze_trainable_layers": ("method.frozen_layers", ""),
        "random_seed random_state data_seed": ("training.seed", ""),
        "gradient_checkpointing grad_checkpoint use_gradient_checkpointing activation_checkpointing": (None, MEMORY),
        "activation_offloading enable_activation_offloading offload_activations": (None, MEMORY),
        "flash_attention flash_attn sdp_attention xformers_attention attn_implementation": (
            None,
            "leave it out: the fastest attention that gives the same result is taken",
        ),
        "deepspeed fsdp fsdp_config ddp_timeout": (None, "training on several devices is not in this version"),
        "do_train do_eval do_predict": (None, "leave it out: `ft train` trains and measures"),
        # evaluation and checkpoints
        "eval_steps eval_every steps_per_eval evals_per_epoch eval_strategy evaluation_strategy": (
            "evaluation.every",
            CADENCE,
        ),
        "val_batches per_device_eval_batch_size eval_batch_size": (
            None,
            "leave it out: every held-out row is measured",
        ),
        "early_stopping_patience": ("evaluation.early_stopping", "write `{patience: 3, min_delta: 0}`"),
        "save_steps save_every saves_per_epoch save_strategy": ("checkpoints.every", CADENCE),
        "save_total_limit": ("checkpoints.keep", ""),
        "load_best_model_at_end": ("checkpoints.best", "write `true` or `false`"),
        "resume_from_checkpoint auto_resume_from_checkpoints": (None, "run `ft train --resume`"),
        "logging_steps steps_per_report log_every logging_strategy": (None, "leave it out: every step is written down"),
        # resources and output
        "n_gpu num_gpus nproc_per_node num_processes": ("resources.workers", ""),
        "gpu_memory_limit max_memory memory_limit": ("resources.memory", "write it with its unit, such as `7.5GB`"),
        "device_map use_cpu no_cuda": ("resources.device", "write `auto`, `cpu`, `cuda`, `cuda:1` or `mps`"),
        "output_dir save_dir logging_dir": ("output.dir", ""),
        "run_name wandb_name wandb_run_id experiment_name": ("output.name", ""),
        "report_to wandb_project use_tensorboard": ("output.log", "write `[tensorboard]` or `[]`"),
        "overwrite_output_dir": (None, "leave it out: a run never overwrites another"),
        "push_to_hub hub_model_id hub_token hf_token": (None, "leave it out: nothing is uploaded by training"),
        # generation
        "max_tokens max_gen_tokens": ("generation.max_new_tokens", ""),
        "temp": ("generation.temperature", ""),
    }
)

LATER_VALUES: dict[str, tuple[str, ...]] = {
    "training.objective": ("ppo", "grpo", "embedding", "distill"),
}
"""Values that a later version will know: refused as such, not as typing errors."""

RESERVED = ("tuning", "cluster")
"""Sections kept free for a later version."""
