"""Commands that train: a study, a recipe, a search."""

import typer

from dinov2lab import options


def run(
    target: options.Target,
    sets: options.Sets = None,
    workspace: options.Place = options.LAB,
    data_root: options.DataRoot = options.HERE,
    reports: options.Reports = options.REPORTS,
    jobs: options.Jobs = None,
    device: options.Device = "auto",
    nproc: options.Nproc = 1,
    micro_batches: options.MicroBatches = 1,
    side_by_side: options.SideBySide = 1,
    recompute: options.Recompute = "nothing",
    shard: options.Cut = "none",
    checkpoints: options.Checkpoints = 1,
    rerun: options.Rerun = False,
    more_seeds: options.MoreSeeds = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
) -> None:
    """Run a study and write its report, or run one recipe. What has a result is not run again."""
    from dinov2lab import commands
    from dinov2lab.spec.study import Study
    from dinov2lab.store.folders import Workspace

    if dry_run:
        commands.refuse("--dry-run shows what is left to do, and that would be all of it", rerun=rerun)
    share = commands.Share(jobs, device, nproc, micro_batches, side_by_side, recompute, shard, checkpoints)
    where, how = commands.Places(Workspace(workspace), data_root, reports), {"rerun": rerun, "dry_run": dry_run}
    found = commands.find_either(target, sets or (), where.workspace)
    if more_seeds:
        found = commands.with_more_seeds(found, more_seeds, where.workspace)
    if not isinstance(found, Study):
        commands.refuse("is for a study; a recipe has no report", reports=reports != options.REPORTS)
    if launcher == "slurm":
        from dinov2lab import cluster

        raise typer.Exit(cluster.run(found, where, profiles or (), slurm or (), share, **how, as_json=as_json))
    from dinov2lab import local

    commands.refuse_slurm_words(profiles, slurm)
    raise typer.Exit(local.run(found, where, share, **how, as_json=as_json))


def search(
    target: options.SearchName,
    sets: options.Sets = None,
    workspace: options.Place = options.LAB,
    data_root: options.DataRoot = options.HERE,
    reports: options.Reports = options.REPORTS,
    jobs: options.Jobs = None,
    device: options.Device = "auto",
    storage: options.Storage = None,
    confirm: options.Confirm = 0,
    confirm_seeds: options.ConfirmSeeds = options.CONFIRM_SEEDS,
    transfer: options.TransferFrom = None,
    dashboard: options.Dashboard = False,
    port: options.Port = options.PORT,
    as_json: options.Json = False,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
) -> None:
    """Search a recipe's space for what does best on val, and write its report. The same command again goes on."""
    from dinov2lab import commands, searching
    from dinov2lab.store.folders import Workspace

    commands.refuse("is for --dashboard", port=port != options.PORT and not dashboard)
    commands.refuse("is for --confirm K", confirm_seeds=confirm_seeds != options.CONFIRM_SEEDS and not confirm)
    found, place = searching.find_search(target, sets or (), transfer or ()), Workspace(workspace)
    again, here = searching.Again(confirm, confirm_seeds), commands.resources_for(jobs, device)
    if dashboard:
        from dinov2lab.lab.dashboard import serve

        slurm_asked, flags = launcher == "slurm", {"json": as_json, "confirm": confirm, "jobs": jobs}
        commands.refuse("does nothing beside --dashboard, which runs nothing", launcher=slurm_asked, **flags)
        raise typer.Exit(serve(found, place, storage, port))
    if launcher == "slurm":
        from dinov2lab import cluster

        commands.refuse("on Slurm a profile says it: --slurm gpus_per_node=N", device=device != "auto")
        where, words = commands.Places(place, data_root, reports), (profiles or (), slurm or ())
        raise typer.Exit(cluster.search(found, where, *words, again, jobs=jobs, storage=storage, as_json=as_json))
    commands.refuse_slurm_words(profiles, slurm)
    raise typer.Exit(searching.search(found, place, data_root, reports, again, here, storage=storage, as_json=as_json))
